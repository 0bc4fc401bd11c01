"""What a device can run, and how tensors get there."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch


def runs_triton(device: torch.device | str) -> bool:
    """Whether Triton's kernels run there: on CUDA, and slowly anywhere under ``TRITON_INTERPRET=1``."""
    return torch.device(device).type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"


def to_device(values: Sequence | torch.Tensor, dtype: torch.dtype | None, device: torch.device | str) -> torch.Tensor:
    """A tensor on ``device``, of its own dtype where None is given.

    From the host to a GPU it goes by way of pinned memory, for an ordinary copy waits until the GPU has caught up.
    """
    held = torch.as_tensor(values, dtype=dtype)
    pin = torch.device(device).type == "cuda" and held.device.type == "cpu"
    return (held.pin_memory() if pin else held).to(device, non_blocking=pin)
