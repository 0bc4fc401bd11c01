"""``usage.reasoning_tokens``: SGLang counts a whole accepted block, and then cuts it at the stop or ``max_tokens``."""

from __future__ import annotations

from typing import Any


def forget_reasoning_behind_the_end(req: Any, _new_accepted_len: int) -> None:
    """When a step is settled: no reasoning token lies behind the last token of the answer."""
    if req.finished():
        req.reasoning_tokens = min(req.reasoning_tokens, len(req.output_ids_through_stop))
