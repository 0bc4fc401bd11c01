"""KV slots of decode steps: how many a step may take, and rows of ``req_to_token`` that hold them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.mem_cache import allocation_sizing
from sglang.srt.runtime_context import get_spec

NAME = "DOMINO"


def row_headroom(default: int) -> int:
    """Columns of a ``req_to_token`` row beyond the context, where SGLang gives it ``default``.

    An unfinished request has fewer committed tokens than the context, and a step reserves
    ``get_alloc_reserve_per_decode()`` slots behind them, rounded up to whole pages. SGLang's own headroom covers that
    for its other algorithms and for pages of several tokens; where it does not, its kernel goes on writing in the row
    of the next request.
    """
    if get_spec().speculative_algorithm != NAME:
        return default
    return max(default, allocation_sizing.get_alloc_reserve_per_decode() + allocation_sizing.get_alloc_page_size() - 1)


def with_row_headroom(build: Callable, *args: Any, extra_max_context_len: int, **kwargs: Any) -> Any:
    """Call a builder of unified memory pools, which do not ask ``get_req_to_token_extra_context_len``."""
    return build(*args, extra_max_context_len=row_headroom(extra_max_context_len), **kwargs)
