"""The operators' pages against the code: flags, metrics and error texts that are written down exist."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

from domino_sglang.cli import COMMANDS
from domino_sglang.names import ENVIRONMENT_VARIABLES
from tests.support.metric_names import known_metrics, metrics_in
from tests.support.paths import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
# What people read besides: links and commands are checked, flags of other programs are not ours to know.
PAGES = [*DOCS, *(ROOT / name for name in ("CONTRIBUTING.md", "benchmarks/README.md", "tests/serving/README.md"))]
OPERATORS = (ROOT / "docs" / "operators.md").read_text()
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
# What stands for a value in the pages and in the templates below.
GAP = "…"


@functools.cache
def sglang_parser() -> argparse.ArgumentParser:
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return parser


@functools.cache
def known_flags() -> set[str]:
    """Of SGLang's server, of our commands, and of the recipes."""
    flags = set(sglang_parser()._option_string_actions) | {"--dry-run"}
    for module, _ in COMMANDS.values():
        parser = argparse.ArgumentParser()
        importlib.import_module(module).add_arguments(parser)
        flags |= flags_of(parser)
    return flags


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """A parser's flags and its subcommands'."""
    flags = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                flags |= flags_of(sub)
    return flags


@functools.cache
def said_by_the_code() -> frozenset[str]:
    """Every string of the package and every f-string, with ``…`` for what is filled in; and SGLang's one we quote."""
    spec_info = Path(importlib.util.find_spec("sglang.srt.speculative.spec_info").origin)
    return frozenset(
        text
        for file in [*(ROOT / "domino_sglang").rglob("*.py"), spec_info]
        for node in ast.walk(ast.parse(file.read_text()))
        if (text := template(node))
    )


def template(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else GAP for part in node.values]
        return re.sub(f"{GAP}+", GAP, "".join(parts))
    return None


def quoted_errors() -> list[str]:
    """What stands behind the bullets under Troubleshooting: one or more quoted texts a bullet."""
    part = OPERATORS.split("## Troubleshooting", 1)[1]
    return [text for line in re.findall(r"^- (`.+`)\\$", part, re.M) for text in re.findall(r"`([^`]+)`", line)]


def is_said(quote: str) -> bool:
    return any(quote in text for text in said_by_the_code())


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_flags_exist(page):
    assert set(FLAG.findall(page.read_text())) <= known_flags()


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_metrics_exist(page):
    assert metrics_in(page.read_text()) <= known_metrics()


def test_every_metric_of_ours_is_written_down():
    ours = {name for name in known_metrics() if name.startswith("domino:") and name.endswith("_total")}
    assert ours
    assert ours <= metrics_in(OPERATORS)


def test_every_environment_variable_is_written_down():
    table = OPERATORS.split("## Environment variables", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == list(ENVIRONMENT_VARIABLES)


def test_environment_variables_are_named_in_one_module():
    elsewhere = {
        (file.name, node.value)
        for file in (ROOT / "domino_sglang").rglob("*.py")
        if file.name != "names.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and re.fullmatch(r"DOMINO_[A-Z_]+", str(node.value))
    }
    assert elsewhere == set()


@pytest.mark.parametrize("quote", quoted_errors())
def test_quoted_errors_are_in_the_code(quote):
    assert is_said(quote)


def test_a_text_nobody_says_would_be_found():
    assert len(quoted_errors()) > 30
    assert not is_said("--pp-size is …, and DOMINO needs 2")


@pytest.mark.parametrize("file", ["admission.py", "draft/target_head.py", "cpu/attention.py"])
def test_every_refusal_at_start_is_written_down(file):
    raised = [
        text
        for node in ast.walk(ast.parse((ROOT / "domino_sglang" / "serving" / file).read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.func.id != "NotImplementedError"
        if (text := template(node.exc.args[0]))
    ]
    assert raised
    assert [text for text in raised if not any(quote in text for quote in quoted_errors())] == []


def test_defaults_in_the_table():
    from domino_sglang.serving.admission import FEWEST_RUNNING, LOGITS_SHARE, MOST_RUNNING, running_requests

    said = f"{FEWEST_RUNNING} to {MOST_RUNNING}: as many as the logits of one block each take {LOGITS_SHARE:.0%}"
    assert f"| `--max-running-requests` | {said} of the device's memory |" in OPERATORS
    # Qwen3-8B with blocks of 16: a card of 80 GB takes them all, one of 24 GB fewer, an unknown one the fewest.
    blocks = {80: MOST_RUNNING, 24: 79, 4: FEWEST_RUNNING, 640: MOST_RUNNING}
    assert {gib: running_requests(16, 151_936, gib * 1024) for gib in blocks} == blocks
    assert running_requests(16, 151_936, None) == FEWEST_RUNNING

    from domino_sglang.playground import command

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert f"http://127.0.0.1:{parser.get_default('port')}" in (ROOT / "docs" / "playground.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = page.read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist_and_have_help(page):
    helped = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z-]+)`", page.read_text())) <= helped


def test_screenshots_are_small():
    pictures = sorted((ROOT / "docs" / "screenshots").glob("*"))
    assert {picture.stem for picture in pictures} == {"light", "dark", "phone", "race", "lost"}
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
