"""Runs ``twins/`` on the CPU, one file per process: Triton chooses its interpreter at import, for a whole process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TWINS = sorted(
    path.name for path in (Path(__file__).parent / "twins").glob("test_*.py") if path.name != "test_rollout_graphs.py"
)


@pytest.mark.parametrize("file", TWINS)
def test_interpreted(file):
    """To see one test alone: ``TRITON_INTERPRET=1 pytest tests/kernels/twins/FILE -k NAME``."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        # Without the project's -q, so that pytest says how many passed.
        [
            sys.executable,
            "-m",
            "pytest",
            "-o",
            "addopts=--strict-markers",
            "-x",
            "-p",
            "no:cacheprovider",
            f"twins/{file}",
        ],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 0, done.stdout[-2000:]
