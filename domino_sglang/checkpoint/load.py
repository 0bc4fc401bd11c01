"""The weights themselves, under their bare names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from domino_sglang.checkpoint.report import check_checkpoint


def load_state_dict(
    path: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> dict[str, torch.Tensor]:
    """Validate a checkpoint and load its tensors, whatever prefix or number of files they are stored with.

    Args:
        dtype: None keeps the stored one.

    Raises:
        CheckpointError: as :func:`~domino_sglang.checkpoint.check_checkpoint`.
    """
    report = check_checkpoint(path)
    state: dict[str, torch.Tensor] = {}
    for file in sorted({tensor.file for tensor in report.tensors.values()}):
        with safe_open(file, framework="pt", device=str(device)) as stored:
            for name, tensor in report.tensors.items():
                if tensor.file == file:
                    value = stored.get_tensor(tensor.name)
                    state[name] = value if dtype is None else value.to(dtype)
    return state
