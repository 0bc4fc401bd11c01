"""README's commands exist: make targets, our own commands and flags, files and links."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from domino_sglang.cli import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """Every command of README's bash blocks, as words."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


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
