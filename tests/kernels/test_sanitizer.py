"""A thousand graph replays under NVIDIA's compute-sanitizer, where there is one: reads and writes out of bounds, races.

The same kernels run without a GPU, interpreted, in ``test_interpreted.py``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SANITIZER = shutil.which("compute-sanitizer")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or SANITIZER is None, reason="needs a GPU and compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_replays_are_clean(tool):
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "pytest", "-q"]
    command += ["-p", "no:cacheprovider", "twins/test_rollout_graphs.py", "-k", "thousand and fused"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
