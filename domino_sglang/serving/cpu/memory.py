"""KV-cache bookkeeping in PyTorch, where SGLang launches Triton kernels."""

from __future__ import annotations

import torch
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool


class CpuKVPool(MHATokenToKVPool):
    """SGLang's multi-head KV pool without the byte-copy kernel it warms up on a GPU."""

    def __init__(self, *args, **kwargs):
        kwargs["enable_kv_cache_copy"] = False
        super().__init__(*args, **kwargs)


def extend_cache_locs(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    batch_size: int,
    draft_token_num: int,
    device: torch.device | str,
) -> torch.Tensor:
    """KV slots of each request's next ``draft_token_num`` positions, int64 ``[batch_size * draft_token_num]``.

    Source: ``sglang.kernels.ops.speculative.cache_locs.assign_extend_cache_locs_func``.
    """
    columns = start_offset[:, None] + torch.arange(draft_token_num, device=start_offset.device)
    return req_to_token[req_pool_indices[:, None], columns].reshape(-1).to(torch.int64)


def assign_req_to_token_pool_func(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    batch_size: int,
) -> None:
    """Write new KV slots into each request's row at positions ``start_offset`` to ``end_offset``.

    Source: ``sglang.srt.mem_cache.allocation.assign_req_to_token_pool_func``.
    """
    spans = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    taken = 0
    for row, first, end in list(spans)[:batch_size]:
        req_to_token[row, first:end] = out_cache_loc[taken : taken + end - first]
        taken += end - first


def get_last_loc(
    req_to_token: torch.Tensor, req_pool_indices_tensor: torch.Tensor, prefix_lens_tensor: torch.Tensor
) -> torch.Tensor:
    """KV slot of each request's last position, int64 ``[B]``; -1 where it has none.

    Source: ``sglang.srt.mem_cache.allocation.get_last_loc``.
    """
    last = req_to_token[req_pool_indices_tensor, (prefix_lens_tensor - 1).clamp(min=0)].to(torch.int64)
    return last.masked_fill(prefix_lens_tensor <= 0, -1)


def make_record_stream_harmless() -> None:
    """Let ``Tensor.record_stream`` pass on CPU tensors, which have no stream to be freed too early on."""
    original = torch.Tensor.record_stream

    def record_stream(tensor, stream) -> None:
        if tensor.device.type != "cpu":
            original(tensor, stream)

    setattr(torch.Tensor, "record_stream", record_stream)  # noqa: B010
