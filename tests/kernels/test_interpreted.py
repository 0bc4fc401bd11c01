"""Runs ``twins/`` on the CPU, in a process of its own: Triton decides at import, for a whole process, to interpret."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TWINS = Path(__file__).parent / "twins"
# Too large for the interpreter.
GPU_ONLY = "test_rollout_full_size.py"
FILES = sorted(path.name for path in TWINS.glob("test_*.py") if path.name != GPU_ONLY)


@pytest.fixture(scope="module")
def interpreted() -> str:
    """What pytest says of all files, in one process: each would import torch and Triton anew."""
    # Without the project's -q, so that pytest names files and says how many passed.
    options = ["-o", "addopts=--strict-markers", "-p", "no:cacheprovider", f"--ignore=twins/{GPU_ONLY}", "-rA"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "twins"],
        cwd=TWINS.parent,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES)
def test_interpreted(interpreted, file):
    """To see one test alone: ``TRITON_INTERPRET=1 pytest tests/kernels/twins/FILE -k NAME``."""
    outcomes = re.findall(rf"^([A-Z]+) (?:\[\d+\] )?twins/{file}\b", interpreted, re.MULTILINE)
    assert set(outcomes) == {"PASSED"}, interpreted[-9000:]
