"""Where kernels run: what a plan must know of the device."""

from __future__ import annotations

import torch
import triton

from domino_kernels.ops.scan import scan_kernel
from domino_kernels.plan import Device

INTERPRETED = not isinstance(scan_kernel, triton.JITFunction)
"""True under ``TRITON_INTERPRET=1``: CPU tensors, programs one after another."""


def device_limits(device: torch.device) -> Device:
    """Limits of a CUDA device, or of the interpreter.

    Raises:
        ValueError: neither.
    """
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        # 99 KB: the smallest opt-in limit of the supported architectures (sm_120).
        return Device(found.multi_processor_count, getattr(found, "shared_memory_per_block_optin", 99 * 1024))
    if not INTERPRETED:
        raise ValueError(
            f"weights are on {device}, expected a CUDA device; on a CPU use domino_sglang.core.head.rollout and "
            "domino_sglang.core.verify (or TRITON_INTERPRET=1 to test)"
        )
    return Device(num_sms=1, shared_memory=99 * 1024)
