"""From the CPU to the device of a run, without a wait."""

from __future__ import annotations

import torch


def send(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """``tensor`` on ``device``. The copy to a GPU starts from pinned memory and is not waited for: what a step needs
    next is queued while the GPU works on the step before."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
