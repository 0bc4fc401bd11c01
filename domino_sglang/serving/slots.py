"""KV slots of decode steps: how many a step may take, and rows of ``req_to_token`` that hold them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.mem_cache import allocation_sizing
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
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


class StepSlots:
    """Slots of this step are what this step verifies, and fewer where a lone request would have to be given up.

    SGLang reserves twice the longest block for every step. When a step is prepared, the one before it may still run,
    and commit as many tokens as it had slots: behind those, and no further, lie the slots of the new step.

    Args:
        width: tokens a request that the next step of these requests would verify, the bonus token included.

    Attributes:
        granted: slots a request of the step prepared last; it may commit as many tokens.
    """

    def __init__(self, longest: int, width: Callable[[list[Any]], int]):
        self.width, self.granted = width, longest
        self._reserve = 2 * longest

    def manage(self) -> None:
        """Decide from now on, in this scheduler process."""
        HookRegistry.register(
            "sglang.srt.managers.schedule_batch.ScheduleBatch._new_tokens_required_next_decode_spec_v2",
            self.needed,
            HookType.AROUND,
        )
        HookRegistry.register(
            "sglang.srt.speculative.dflash_info_v2.DFlashDraftInputV2.prepare_for_decode",
            self.prepare,
            HookType.AROUND,
        )
        HookRegistry.register(
            "sglang.srt.mem_cache.allocation_sizing.page_aligned_decode_alloc_lens", self.lengths, HookType.AROUND
        )
        HookRegistry.apply_hooks()

    def lengths(self, original: Callable, reqs: list[Any], *, reserve: int, page_size: int) -> Any:
        """SGLang's lengths of allocations, with this step's reserve."""
        return original(reqs, reserve=self._reserve, page_size=page_size)

    def needed(self, _original: Callable, batch: Any, requests: list[Any], page_size: int) -> int:
        """Tokens without which SGLang retracts requests; of the last one, those of plain decoding."""
        return self._tokens(requests, 1 if len(requests) == 1 else self.width(requests), page_size)

    def prepare(self, original: Callable, draft_input: Any, batch: Any) -> None:
        """Reserve the slots of a step, as many as there are for it."""
        width = self.width(batch.reqs) if batch.reqs else self.granted
        granted = width
        while len(batch.reqs) == 1 and granted > 1 and not self._fits(batch, granted):
            granted -= 1
        self._reserve = self._behind(granted)
        original(draft_input, batch)
        if granted < width:
            self._pad(draft_input, batch, width - granted)
        self.granted = granted

    def _behind(self, width: int) -> int:
        # One more than a block needs, so that plain decoding can go on where it ends.
        return self.granted + width + (width > 1)

    def _tokens(self, requests: list[Any], width: int, page_size: int) -> int:
        self._reserve = self._behind(width)
        return allocation_sizing.page_aligned_decode_alloc_lens(requests, reserve=self._reserve, page_size=page_size)[2]

    def _fits(self, batch: Any, width: int) -> bool:
        allocator = batch.token_to_kv_pool_allocator
        return allocator.check_decode_capacity(
            num_tokens=self._tokens(batch.reqs, width, allocator.page_size),
            tree_cache=batch.tree_cache,
            requests=batch.reqs,
            spec_algorithm=batch.spec_algorithm,
        )

    @staticmethod
    def _pad(draft_input: Any, batch: Any, missing: int) -> None:
        """Let the rest of the block be written to slot 0, which belongs to nobody."""
        end = draft_input.nxt_kv_lens_cpu.to(batch.req_pool_indices.device, torch.int64)
        columns = end[:, None] + torch.arange(missing, device=end.device)
        batch.req_to_token_pool.write((batch.req_pool_indices[:, None], columns), 0)
        # How far attention reads.
        draft_input.nxt_kv_lens_cpu = draft_input.nxt_kv_lens_cpu + missing
        draft_input.nxt_kv_lens_sum = int(draft_input.nxt_kv_lens_cpu.sum())


def commit_at_most(slots: int, accepted: tuple, prefix_lens: torch.Tensor) -> tuple:
    """``DFlashWorkerV2._accept_block``'s result, cut to a step's slots.

    What is left of a text is distributed as the whole: the cut does not depend on the tokens.
    """
    _accept_len, commit_lens, _bonus, out_tokens, _new_seq_lens = accepted
    if slots >= out_tokens.shape[1]:
        return accepted
    commit_lens = commit_lens.clamp(max=slots)
    bonus = out_tokens.gather(1, commit_lens[:, None].long() - 1)[:, 0]
    return commit_lens - 1, commit_lens, bonus, out_tokens, prefix_lens + commit_lens.to(prefix_lens.dtype)
