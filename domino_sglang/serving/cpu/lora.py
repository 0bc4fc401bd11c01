"""LoRA adapters without a device: SGLang page-locks the host tensors of its LoRA layers, which only a device can do."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch


class PageableTorch(ModuleType):
    """``torch`` as the LoRA modules see it: what it makes on the host stays pageable."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def tensor(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        return torch.tensor(*args, **kwargs)

    @staticmethod
    def zeros(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        return torch.zeros(*args, **kwargs)


def make_lora_pageable() -> None:
    """Let LoRA layers and their plain PyTorch backend work with host tensors that nothing has locked."""
    from sglang.srt.lora import layers
    from sglang.srt.lora.backend import torch_backend

    for module in (layers, torch_backend):
        setattr(module, "torch", PageableTorch("torch"))  # noqa: B010
    setattr(torch.Tensor, "pin_memory", lambda self, device=None: self)  # noqa: B010
