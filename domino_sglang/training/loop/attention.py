"""Attention of many anchored blocks at once, three ways that agree.

``split`` scores the context and the block's own tokens separately and shares one softmax: no block-to-block work, so
it is the fastest without a fused kernel. ``sdpa`` takes the whole boolean mask; ``flex`` compiles it on a GPU.
"""

from __future__ import annotations

import functools

import torch

from domino_sglang.hf.layers import Attend, KeyValue, attend_all
from domino_sglang.training.loop.anchors import context_mask, full_mask


def block_attention(kind: str, anchors: torch.Tensor, length: int, block_size: int) -> Attend:
    """An ``attend`` for the backbone over blocks at ``anchors [B, A]`` and ``length`` context positions.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "split":
        return _split(anchors, length, block_size)
    if kind == "sdpa":
        return functools.partial(attend_all, mask=full_mask(anchors, length, block_size))
    if kind == "flex":
        return _flex(anchors, length, block_size)
    raise ValueError(f"train.attention is {kind!r}, expected split, sdpa or flex")


def _split(anchors: torch.Tensor, length: int, block_size: int) -> Attend:
    blocks = anchors.shape[1]
    hidden = ~context_mask(anchors, length).repeat_interleave(block_size, dim=1)[:, None, None]

    def attend(query: torch.Tensor, context: KeyValue, block: KeyValue) -> torch.Tensor:
        batch, heads, rows, dim = query.shape
        kv_heads = context[0].shape[1]
        group = heads // kv_heads
        query = query.view(batch, kv_heads, group, rows, dim) * dim**-0.5
        far = torch.matmul(query, context[0][:, :, None].transpose(-1, -2)).masked_fill(hidden, -torch.inf)
        shape = (batch, kv_heads, 1, blocks, block_size, dim)
        own_key, own_value = (part.view(shape) for part in block)
        near = torch.matmul(query.view(batch, kv_heads, group, blocks, block_size, dim), own_key.transpose(-1, -2))
        weights = torch.cat([far, near.flatten(3, 4)], dim=-1).softmax(-1)
        mixed = torch.matmul(weights[..., :length], context[1][:, :, None])
        own = weights[..., length:].view(batch, kv_heads, group, blocks, block_size, block_size)
        return (mixed + torch.matmul(own, own_value).flatten(3, 4)).flatten(1, 2)

    return attend


@functools.cache
def _flex_attention(compiled: bool):
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


def _flex(anchors: torch.Tensor, length: int, block_size: int) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(batch, head, query, key):
        block = query // block_size
        return torch.where(key < length, key < anchors[batch, block], (key - length) // block_size == block)

    rows = anchors.shape[1] * block_size
    mask = create_block_mask(visible, anchors.shape[0], None, rows, length + rows, device=str(anchors.device))
    flex = _flex_attention(anchors.is_cuda)

    def attend(query: torch.Tensor, context: KeyValue, block: KeyValue) -> torch.Tensor:
        key, value = (torch.cat(pair, dim=2) for pair in zip(context, block, strict=True))
        return flex(query, key, value, block_mask=mask, enable_gqa=query.shape[1] != key.shape[1])

    return attend
