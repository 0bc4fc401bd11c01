"""``/release_memory_occupation`` and ``/resume_memory_occupation``: asked at the wrong time, they end plain SGLang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.constants import GPU_MEMORY_ALL_TYPES
from sglang.srt.managers.io_struct import ResumeMemoryOccupationReqOutput


async def guard_release(release: Callable, manager: Any, obj: Any, request: Any = None) -> None:
    """Around ``TokenizerManager.release_memory_occupation``.

    Raises:
        ValueError: a sentence for the user; SGLang answers it with 400.
    """
    if not torch.cuda.is_available():
        raise ValueError("This server runs without a GPU: there is no GPU memory to release")
    if manager.rid_to_state and not manager.is_pause:
        raise ValueError(
            f"{len(manager.rid_to_state)} requests are being served, and memory is released when there are none: "
            "wait for them, or call /pause_generation"
        )
    await release(manager, obj, request)


def resume_what_was_released(resume: Callable, updater: Any, request: Any) -> ResumeMemoryOccupationReqOutput:
    """Around the scheduler's ``resume_memory_occupation``, which fails on a tag that holds its memory."""
    request.tags = [tag for tag in request.tags or GPU_MEMORY_ALL_TYPES if tag in updater.offload_tags]
    return resume(updater, request) if request.tags else ResumeMemoryOccupationReqOutput()
