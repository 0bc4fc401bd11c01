"""Who may import whom (the house's boundaries), read from the folders."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = {"domino_sglang": ROOT / "domino_sglang", "domino_kernels": ROOT / "kernels" / "domino_kernels"}

# What a room may know of the house besides itself, for the rooms at the bottom of it. ``errors`` and ``names`` are
# leaves that everybody may read.
LEAVES = {"errors", "names"}
KNOWS = {
    "errors": set(),
    "names": set(),
    "core": LEAVES,
    "checkpoint": LEAVES | {"core"},
    "hf": LEAVES | {"core", "checkpoint"},
    "serving": LEAVES | {"core", "checkpoint"},
    "measure": LEAVES,
}


def modules(package: str) -> dict[str, Path]:
    root = PACKAGES[package]
    found = {}
    for file in sorted(root.rglob("*.py")):
        parts = [package, *file.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path) -> Iterator[str]:
    """Every module named by an import statement, wherever it stands in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(names: Iterator[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


def room(name: str) -> str:
    """``domino_sglang.core.head`` stands in ``core``, ``domino_sglang.plugin`` in ``plugin``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


SOURCES = {name: file for package in PACKAGES for name, file in modules(package).items()}
OWN = {name: file for name, file in SOURCES.items() if name.startswith("domino_sglang")}


def test_kernels_know_torch_and_triton_only():
    for name in set(SOURCES) - set(OWN):
        assert top_level(imports(SOURCES[name])) <= {"torch", "triton", "domino_kernels"}, name


@pytest.mark.parametrize("name", [name for name in OWN if room(name) not in ("serving", "plugin")])
def test_only_serving_and_the_plugin_touch_sglang(name):
    named = set(imports(OWN[name]))
    assert not top_level(iter(named)) & {"sglang", "sgl_kernel"}
    assert "serving" not in {room(other) for other in named if other in OWN}


@pytest.mark.parametrize("name", [name for name in OWN if room(name) in KNOWS])
def test_rooms_at_the_bottom_know_what_is_below_them(name):
    known = {room(other) for other in imports(OWN[name]) if other in OWN}
    assert known <= KNOWS[room(name)] | {room(name), ""}


def test_a_room_that_no_rule_names_is_a_command():
    """Everything else stands at the top of the house, and only the command line opens it."""
    rooms = {room(name) for name in OWN} - set(KNOWS) - {"", "plugin", "cli"}
    assert rooms == {"bench", "commands", "demo", "playground", "training"}


@pytest.mark.parametrize("folder", ["kernels", "benchmarks", "launch"])
def test_folders_that_must_not_become_packages(folder):
    # `python -m sglang.launch_server` puts the current folder on the path, and SGLang imports a PyPI package `kernels`.
    assert not (ROOT / folder / "__init__.py").exists()
