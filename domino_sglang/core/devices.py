"""What a device can run."""

from __future__ import annotations

import os

import torch


def runs_triton(device: torch.device | str) -> bool:
    """Whether Triton's kernels run there: on CUDA, and slowly anywhere under ``TRITON_INTERPRET=1``."""
    return torch.device(device).type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
