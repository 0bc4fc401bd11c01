"""``docs/architecture.md``: every folder stands in the map, and every folder of the map exists."""

from __future__ import annotations

import re
import subprocess

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def tracked(*patterns: str) -> list[str]:
    return subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip


def test_the_map_lists_every_folder():
    folders = {path.rpartition("/")[0] for path in tracked("domino_sglang", "kernels/domino_kernels")}
    on_the_map = set(re.findall(r"^\| `([\w/]+)` \|", PAGE, re.M))
    assert folders - on_the_map == set(), (
        "docs/architecture.md, The map: add a row for each, | `folder` | what it holds |"
    )
    assert on_the_map - folders == set(), "docs/architecture.md, The map: these folders are gone, drop their rows"


def test_named_files_exist():
    for path in re.findall(r"`([\w/]+\.py)`", PAGE):
        assert any((ROOT / root / path).exists() for root in ("", "domino_sglang", "domino_sglang/serving")), path


def test_pages_that_the_code_names_exist():
    pages = {path.rpartition("/")[2] for path in tracked("*.md")}
    written = {"report.md", "README.md"}  # by commands, into the user's folders
    for file in tracked("domino_sglang/*.py", "kernels/*.py", "benchmarks/*.py", "tests/*.py"):
        named = set(re.findall(r"[\w-]+\.md\b", (ROOT / file).read_text()))
        assert named <= pages | written, f"{file} names {sorted(named - pages - written)}"
