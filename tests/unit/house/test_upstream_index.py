"""``docs/upstream.md`` lists every patch of SGLang and torch, and nothing that is no longer done."""

from __future__ import annotations

import ast

import pytest

from domino_sglang.serving import hooks
from tests.unit.house import upstream_index
from tests.unit.house.upstream_index import Patch, listed, rows

TABLES = {
    "Hooks": upstream_index.hooks,
    "Overridden methods": upstream_index.overrides,
    "Attributes set": upstream_index.settings,
}


def said(patches: set[Patch]) -> str:
    return "\n".join(f"  `{name}` in serving/{file}" for file, name in sorted(patches))


@pytest.mark.parametrize("section", TABLES)
def test_every_patch_has_a_row(section):
    missing = TABLES[section]() - listed(section)
    assert not missing, (
        f'docs/upstream.md, table "{section}", has no row for\n{said(missing)}\nAdd for each: | `name as above` | '
        "`file below serving/` | why SGLang or torch must be changed here | upstream issue, or none known | what would "
        "let it go |. If the object is one of our own, let a method of its class set the field."
    )


@pytest.mark.parametrize("section", TABLES)
def test_every_row_is_still_done(section):
    stale = listed(section) - TABLES[section]()
    assert not stale, (
        f'docs/upstream.md, table "{section}", names what the code does not do any more:\n{said(stale)}\n'
        "Take the name out of its row, and the row with the last one."
    )


@pytest.mark.parametrize("section", TABLES)
def test_every_row_is_complete(section):
    for row in rows(section):
        assert len(row) == 5 and all(cell.strip() for cell in row), row


def test_the_hooks_in_the_code_are_those_that_are_registered(monkeypatch):
    registered: set[str] = set()
    monkeypatch.setattr(hooks.HookRegistry, "register", lambda target, *_args, **_kwargs: registered.add(target))
    hooks.install_hooks()
    assert registered and registered <= {name for _, name in upstream_index.hooks()}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("server_args.device = 'cpu'", ["server_args.device"]),
        ("module.models['A'] = B", ["module.models['A']"]),
        ("setattr(torch.Tensor, 'pin_memory', f)", ["torch.Tensor.pin_memory"]),
        ("setattr(owner, name, value)", ["setattr(owner, name, value)"]),
        ("a.x, b.y = 1, 2", ["a.x", "b.y"]),
        ("flag.on &= here", ["flag.on"]),
        ("self.adaptive.observe = count", []),
        ("self.model_runner.attn_backend = other", ["self.model_runner.attn_backend"]),
        ("self.step = 1", []),
        ("count = 1", []),
    ],
)
def test_what_counts_as_setting_an_attribute(code, names):
    nodes = ast.walk(ast.parse(code))
    assert [name for node in nodes for name in upstream_index.set_by(node, own={"observe", "step"})] == names
