"""Runs ``ops/`` on the CPU in Triton's interpreter: in a process of its own, for which Triton decides at import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

OPS = Path(__file__).parent / "ops"
# Too large for the interpreter.
GPU_ONLY = "test_rollout_full_size.py"
FILES = sorted(path.name for path in OPS.glob("test_*.py") if path.name != GPU_ONLY)


@pytest.fixture(scope="module")
def interpreted() -> str:
    """What pytest says of all files, in one process: each would import torch and Triton anew."""
    # Without the project's -q, so that pytest names files and says how many passed.
    options = ["-o", "addopts=--strict-markers", "-p", "no:cacheprovider", f"--ignore=ops/{GPU_ONLY}", "-rA"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "ops"],
        cwd=OPS.parent,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES)
def test_interpreted(interpreted, file):
    """To see one test alone: ``TRITON_INTERPRET=1 pytest tests/kernels/ops/FILE -k NAME``."""
    outcomes = re.findall(rf"^([A-Z]+) (?:\[\d+\] )?ops/{file}\b", interpreted, re.MULTILINE)
    assert set(outcomes) == {"PASSED"}, interpreted[-9000:]
