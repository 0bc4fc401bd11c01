"""Which precision a device multiplies fast."""

from __future__ import annotations

import logging

import torch

logger = logging.getLogger(__name__)


def usable_dtype(dtype: str, device: torch.device | str) -> str:
    """``dtype``, or ``float32`` in place of bfloat16 on a CPU that cannot multiply it; then a line in the log says so.

    Without AVX-512 PyTorch multiplies bfloat16 number by number: 0.3 GFLOP/s where float32 reaches 123 on the same two
    cores.
    """
    if dtype == "bfloat16" and torch.device(device).type == "cpu" and not _cpu_multiplies_bfloat16():
        logger.warning("this CPU has no fast bfloat16 products (it lacks AVX-512): computing in float32")
        return "float32"
    return dtype


def _cpu_multiplies_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
