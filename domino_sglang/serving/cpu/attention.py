"""Attention over the paged KV cache with PyTorch's scaled-dot-product attention.

Decoding and verification, where every request has the same number of queries, run as one batched call for requests of
similar lengths; prefill runs request by request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool
from sglang.srt.model_executor.forward_batch_info import ForwardBatch


@dataclass
class Segment:
    """Requests that attend together.

    Attributes:
        queries: of the flattened query tokens, a slice or int64 indices.
        batch: number of requests.
        slots: KV slots ``[batch, keys]``; positions past a request's length hold any valid slot.
        first_position: int64 ``[batch]``, position of each request's first query.
        num_queries: queries per request.
        masks: additive masks ``[batch, 1, group * num_queries, keys]`` by what :meth:`mask` is asked for, kept for the
            other layers of the step.
    """

    queries: slice | torch.Tensor
    batch: int
    slots: torch.Tensor
    first_position: torch.Tensor
    num_queries: int
    masks: dict[tuple, torch.Tensor] = field(default_factory=dict)

    def mask(self, causal: bool, window: int, group: int, dtype: torch.dtype) -> torch.Tensor:
        """0 where a query sees a key, -inf elsewhere, for ``group`` query heads side by side."""
        kind = (causal, window, group, dtype)
        if kind not in self.masks:
            key = torch.arange(self.slots.shape[1])
            query = self.first_position[:, None] + torch.arange(self.num_queries)
            last = query if causal else (self.first_position + self.num_queries - 1)[:, None].expand_as(query)
            allowed = key <= last[..., None]
            if window > -1:
                allowed &= key >= query[..., None] - window
            additive = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, -torch.inf)
            self.masks[kind] = additive[:, None].repeat(1, 1, group, 1)
        return self.masks[kind]


class CpuAttentionBackend(AttentionBackend):
    """Registered with SGLang as ``cpu_sdpa``, for the target and for the drafter."""

    def __init__(self, model_runner):
        super().__init__()
        if model_runner.use_mla_backend:
            raise ValueError(
                "the CPU platform has no multi-head latent attention (MLA), which this target uses; "
                "serve it on an NVIDIA GPU"
            )
        self.req_to_token_pool = model_runner.req_to_token_pool
        self.token_to_kv_pool = model_runner.token_to_kv_pool
        if isinstance(self.token_to_kv_pool, SWAKVPool):
            raise ValueError(
                "the CPU platform has one KV pool, and this target asks for a sliding-window pool beside it; "
                "add --disable-hybrid-swa-memory or use an NVIDIA GPU"
            )
        self.segments: list[Segment] = []

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        mode = forward_batch.forward_mode
        if mode.is_target_verify():
            width = forward_batch.spec_info.draft_token_num
            self.segments = self._uniform(forward_batch, forward_batch.seq_lens, width)
        elif mode.is_decode_or_idle():
            self.segments = self._uniform(forward_batch, forward_batch.seq_lens - 1, 1)
        else:
            self.segments = self._per_request(forward_batch)

    def _uniform(self, forward_batch: ForwardBatch, first_position: torch.Tensor, width: int) -> list[Segment]:
        first = first_position.to(torch.int64)
        groups = similar_lengths((first + width).tolist())
        return [self._group(forward_batch, first, width, group, whole=len(groups) == 1) for group in groups]

    def _group(self, forward_batch: ForwardBatch, first: torch.Tensor, width: int, group: list[int], whole: bool):
        members = torch.tensor(group)
        queries: slice | torch.Tensor = slice(0, len(group) * width)
        if not whole:
            queries = (members[:, None] * width + torch.arange(width)).view(-1)
        first = first[members]
        rows = forward_batch.req_pool_indices[members]
        slots = self.req_to_token_pool.req_to_token[rows, : int(first.max()) + width].to(torch.int64)
        return Segment(queries, len(group), slots, first, width)

    def _per_request(self, forward_batch: ForwardBatch) -> list[Segment]:
        segments, start = [], 0
        table = self.req_to_token_pool.req_to_token
        prefix = forward_batch.extend_prefix_lens.tolist()
        extend = forward_batch.extend_seq_lens.tolist()
        for row, before, new in zip(forward_batch.req_pool_indices.tolist(), prefix, extend, strict=True):
            slots = table[row : row + 1, : before + new].to(torch.int64)
            segments.append(Segment(slice(start, start + new), 1, slots, torch.tensor([before]), new))
            start += new
        return segments

    def forward_decode(self, q, k, v, layer, forward_batch, save_kv_cache=True, **kwargs):
        return self._forward(q, k, v, layer, forward_batch, save_kv_cache, **kwargs)

    def forward_extend(self, q, k, v, layer, forward_batch, save_kv_cache=True, **kwargs):
        return self._forward(q, k, v, layer, forward_batch, save_kv_cache, **kwargs)

    def _forward(self, q, k, v, layer: RadixAttention, forward_batch: ForwardBatch, save_kv_cache: bool, sinks=None):
        if layer.is_cross_attention or sinks is not None:
            raise NotImplementedError("the CPU attention backend has neither cross-attention nor attention sinks")
        if save_kv_cache and k is not None:
            self.token_to_kv_pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc), k, v)
        causal = layer.attn_type != AttentionType.ENCODER_ONLY
        window = -1 if layer.sliding_window_size is None else layer.sliding_window_size
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        query = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        output = q.new_empty(query.shape[0], layer.tp_q_head_num, layer.v_head_dim)
        group = query.shape[1] // keys.shape[1]
        for segment in self.segments:
            mask = segment.mask(causal, window, group, q.dtype)
            output[segment.queries] = _attend(query[segment.queries], keys, values, segment, mask, layer.scaling)
        return output.view(q.shape[0], -1)

    def support_triton(self) -> bool:
        return False


def similar_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in groups whose shortest is at least half as long as the longest: padding at most doubles the work.

    One group keeps the order of ``lengths``.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and 2 * lengths[index] >= lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups if len(groups) != 1 else [list(range(len(lengths)))]


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    segment: Segment,
    mask: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """``query [batch * num_queries, heads, D]`` against the segment's slots -> the same shape with the value's D.

    Query heads that share a key head are laid side by side as further queries, so that keys are never repeated.
    """
    batch, count = segment.batch, segment.num_queries
    kv_heads = keys.shape[1]
    group = query.shape[1] // kv_heads
    q = query.view(batch, count, kv_heads, group, -1).permute(0, 2, 3, 1, 4).reshape(batch, kv_heads, group * count, -1)
    k, v = (_gather(cache, segment.slots).transpose(1, 2).to(q.dtype) for cache in (keys, values))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    out = out.view(batch, kv_heads, group, count, -1).permute(0, 3, 1, 2, 4)
    return out.reshape(batch * count, kv_heads * group, -1)


def _gather(cache: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """``cache [N, heads, D]`` -> ``[batch, keys, heads, D]``: a copy of whole rows, five times as fast as indexing."""
    return cache.index_select(0, slots.reshape(-1)).view(*slots.shape, *cache.shape[1:])
