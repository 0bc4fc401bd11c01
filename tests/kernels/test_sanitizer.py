"""A thousand graph replays under NVIDIA's compute-sanitizer: reads and writes out of bounds, races.

The same kernels run without a GPU, interpreted, in ``test_interpreted.py``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest
import torch


def sanitizer() -> str:
    """The machine's own, else the one that the extra ``test`` installs."""
    packaged = (file for file in files("nvidia-cuda-sanitizer-api") or () if file.match("bin/compute-sanitizer"))
    return shutil.which("compute-sanitizer") or str(next(packaged).locate())


def test_it_is_installed():
    subprocess.run([sanitizer(), "--version"], check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; test_interpreted.py runs the kernels on the CPU")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_replays_are_clean(tool):
    command = [sanitizer(), "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "pytest", "-q"]
    command += ["-p", "no:cacheprovider", "ops/test_rollout_graphs.py", "-k", "thousand"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
