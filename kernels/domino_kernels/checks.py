"""Arguments checked before a kernel reads beyond them."""

from __future__ import annotations

import torch


def check_tensor(
    name: str, tensor: torch.Tensor, size: tuple[int, ...], dtypes: tuple[torch.dtype, ...], device: torch.device
) -> None:
    """Raises ``ValueError``, naming value, expectation and fix, unless shape, dtype and device are these."""
    if tuple(tensor.shape) != size:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}, expected {list(size)}; pass what the drafter was built for"
        )
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tensor.dtype}, expected {' or '.join(map(str, dtypes))}; cast it")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device}, where w2 is; move it")
