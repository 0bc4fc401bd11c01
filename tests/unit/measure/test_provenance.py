import os
import shutil
import subprocess
import sys

import pytest

from domino_sglang.measure.provenance import command, slug, without_folders
from tests.support.paths import ROOT


def test_a_folders_name_is_short():
    assert slug("Intel(R) Xeon(R) CPU @ 2.20GHz, 2 cores, no GPU") == "intel-xeon-2-cores"
    assert slug("1 x NVIDIA H100 80GB HBM3") == "1-x-nvidia-h100-80gb-hbm3"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--drafter /home/me/drafter --x", "--drafter .../drafter --x"),
        ("http://127.0.0.1:30000/v1/models", "http://127.0.0.1:30000/v1/models"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("at /opt/lib/python/file.py:3", "at .../file.py:3"),
    ],
)
def test_folders_of_this_machine_are_not_told(text, shown):
    assert without_folders(text) == shown


def test_the_command_can_be_pasted():
    assert command(["bench", "sweep", "--arm", "NGRAM=--a b"]) == "domino-sglang bench sweep --arm 'NGRAM=--a b'"


@pytest.fixture
def installed(tmp_path):
    """Both packages as files of somebody's repository, committed or not; returns (git, what ``commit`` says there)."""
    repository, packages = tmp_path / "somebody", tmp_path / "somebody" / "site"
    for folder, source in (("domino_sglang", ROOT), ("domino_kernels", ROOT / "kernels")):
        copied = shutil.ignore_patterns("*.safetensors", "*.xz", "__pycache__", "results")
        shutil.copytree(source / folder, packages / folder, ignore=copied)
    (repository / "theirs.txt").write_text("not ours")

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *words], cwd=repository, check=True, capture_output=True, text=True).stdout

    def said():
        code = "from domino_sglang.measure.provenance import commit; print(commit())"
        environment = os.environ | {"PYTHONPATH": str(packages)}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", "theirs.txt")
    git("commit", "-q", "-m", "theirs")
    return git, said


def test_a_repository_that_merely_contains_the_installation_is_not_ours(installed):
    _git, said = installed
    assert said().startswith("installed package, version ")


@pytest.mark.parametrize("file", ["domino_sglang/core/config.py", "domino_kernels/__init__.py", None])
def test_every_file_that_can_change_a_number_counts_as_modified(installed, tmp_path, file):
    git, said = installed
    git("add", ".")
    git("commit", "-q", "-m", "ours")
    changed = tmp_path / "somebody" / ("theirs.txt" if file is None else f"site/{file}")
    changed.write_text(changed.read_text() + "\n# changed\n")
    head = git("rev-parse", "--short=12", "HEAD").strip()
    assert said() == head + ("" if file is None else " (modified)")
