"""Numbers of the host on their way to the device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def to_device(values: Sequence | torch.Tensor, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """A tensor on ``device``; to a GPU from pinned memory, for an ordinary copy waits until the GPU has caught up."""
    held = torch.as_tensor(values, dtype=dtype)
    pin = torch.device(device).type == "cuda"
    return (held.pin_memory() if pin else held).to(device, non_blocking=pin)
