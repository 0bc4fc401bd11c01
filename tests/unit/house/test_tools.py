"""``.ci/tools`` says what it installs and what for before it does, and how where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TOOLS = ROOT / ".ci" / "tools"
PACKAGES = ["chromium", "prometheus", "shellcheck", "libibverbs1", "libnuma1", "libcurl4"]


def machine(folder: Path, *, root: bool, libraries: str = "", programs: tuple[str, ...] = ()) -> dict[str, str]:
    """An environment whose programs are ours: none of the tools, an apt-get that says what it is given."""
    bare = {"ldconfig": f"echo '{libraries}'", "id": f"echo {0 if root else 1000}", "apt-get": 'echo "apt-get $*" >&2'}
    for name, line in (bare | dict.fromkeys(programs, "true")).items():
        (folder / name).write_text(f"#!{shutil.which('bash')}\n{line}\n")
        (folder / name).chmod(0o755)
    return os.environ | {"PATH": str(folder)}


def run(env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [shutil.which("bash"), TOOLS], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_root_is_told_before_anything_is_installed(tmp_path):
    done = run(machine(tmp_path, root=True))
    said = done.stdout.splitlines()
    assert done.returncode == 0
    assert [line.split()[:2] for line in said[:6]] == [["missing:", package] for package in PACKAGES]
    assert all("(" in line for line in said[:6])
    assert said[6].startswith("installing 6")
    # The update's own words are hidden; what is installed is what was announced.
    assert said[-1] == f"apt-get install -y -q --no-install-recommends {' '.join(PACKAGES)}"


def test_others_are_told_how(tmp_path):
    done = run(machine(tmp_path, root=False, programs=("chromium", "shellcheck")))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "install them; on Debian: sudo apt-get install prometheus libibverbs1 libnuma1 libcurl4"
    )
    assert "apt-get install -y" not in done.stdout


@pytest.mark.parametrize("root", [True, False])
def test_nothing_missing_is_nothing_said(tmp_path, root):
    libraries = "libibverbs.so.1 libnuma.so.1 libcurl.so.4"
    programs = ("chromium", "prometheus", "promtool", "shellcheck")
    done = run(machine(tmp_path, root=root, libraries=libraries, programs=programs))
    assert (done.returncode, done.stdout) == (0, "")
