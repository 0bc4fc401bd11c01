"""Settings for every test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Tests import `tests.support` and `benchmarks` however pytest was started.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# Some virtual machines advertise AMX and lack it; oneDNN's bfloat16 GEMM then dies of an illegal instruction.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")
# Several servers share few cores: a thread that spins while it waits takes the core another one needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
