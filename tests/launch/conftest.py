"""Recipes run on a machine of our making: which GPUs, programs and weights it has is up to the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

LAUNCH = ROOT / "launch"


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


class Machine:
    """Programs come from ``programs`` first; ``python`` is the interpreter that recipes find."""

    def __init__(self, folder: Path):
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.python = sys.executable
        self.folder = folder

    def has(self, name: str, script: str) -> None:
        """Install a program: a bash script."""
        file = self.programs / name
        file.write_text(f"#!/usr/bin/env bash\n{script}\n")
        file.chmod(0o755)

    def has_gpus(self, *gib: int) -> None:
        self.has("nvidia-smi", "\n".join(f"echo '{i}, {memory * 1024}'" for i, memory in enumerate(gib)))

    def has_weights(self, name: str) -> str:
        folder = self.folder / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        return str(folder)

    def only_prints(self) -> None:
        """Its interpreter answers checks as the real one does, and prints a server's command instead of running it."""
        self.has("python", f'[[ $1 == -m ]] && {{ printf "RUN %s\\n" "$@"; exit 0; }}\nexec {sys.executable} "$@"')
        self.python = str(self.programs / "python")

    def run(self, recipe: str, *args: str, **env: str) -> subprocess.CompletedProcess:
        inherited = {name: os.environ[name] for name in ("HOME", "DOMINO_SGLANG_CACHE") if name in os.environ}
        path = f"{self.programs}:/usr/local/bin:/usr/bin:/bin"
        settings = inherited | {"PATH": path, "PYTHON": self.python, "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder)}
        settings["MIN_FREE_GIB"] = "0"  # The servers that other tests ask fill this machine's real memory.
        return subprocess.run(
            [str(LAUNCH / recipe), *args],
            env=settings | env,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
        )
