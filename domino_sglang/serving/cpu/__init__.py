"""Serving without a GPU: an SGLang platform, its attention backend and its KV pool."""

from __future__ import annotations

import os

CPU_PLATFORM = "domino_sglang.serving.cpu.platform.DominoCpuPlatform"


def has_accelerator() -> bool:
    """Whether SGLang would find a device of its own: a GPU or an accelerator torch can see."""
    import torch

    return (
        torch.cuda.is_available()
        or torch.xpu.is_available()
        or torch.backends.mps.is_available()
        or (hasattr(torch, "npu") and torch.npu.is_available())
    )


def cpu_platform_if_needed() -> str | None:
    """The CPU platform's class path on a machine without an accelerator, else None.

    ``SGLANG_USE_CPU_ENGINE=1`` asks for SGLang's own CPU engine (which needs AMX kernels) and is left alone.
    """
    if os.getenv("SGLANG_USE_CPU_ENGINE", "0") == "1" or has_accelerator():
        return None
    return CPU_PLATFORM
