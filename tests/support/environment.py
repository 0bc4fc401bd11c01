"""Environment variables that every test and every server of a test needs, set before torch is imported."""

from __future__ import annotations

import os

DEFAULTS = {
    # Some virtual machines advertise AMX and lack it; oneDNN's bfloat16 GEMM then dies of an illegal instruction.
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16",
    # Several servers share few cores: a thread that spins while it waits takes the core another one needs.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
}


def settle() -> None:
    """What the caller has set stays."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
