"""One int64 per candidate whose maximum is what ``torch.argmax`` picks.

High word: the score's order as int32 (NaN above everything, -0 equal to +0). Low word: the complement of the token
id, so that of equal scores the lowest id wins. The maximum commutes, so tiles, programs and tensor-parallel ranks may
be merged in any order, by ``atomic_max`` or all-gather, and the result is the same every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

NO_CANDIDATE = -(2**63) + 1
"""Below every key a token can have, minus infinity included."""

LOWEST_ORDER = tl.constexpr(-(2**31))
HIGHEST_ORDER = tl.constexpr(2**31 - 1)
LOWEST_KEY = tl.constexpr(NO_CANDIDATE)


@triton.jit
def order_of(score):
    """float32 -> int32 that sorts the same way; NaN sorts last, both zeros are one value."""
    bits = score.to(tl.int32, bitcast=True)
    bits = tl.where(bits == LOWEST_ORDER, 0, bits)
    order = bits ^ ((bits >> 31) & HIGHEST_ORDER)
    return tl.where(score != score, HIGHEST_ORDER, order)


@triton.jit
def pack_key(order, token):
    """int32 order and int32 token id of the same shape -> int64 key."""
    return (order.to(tl.int64) << 32) | (0xFFFFFFFF - token.to(tl.int64))


@triton.jit
def token_of(key):
    """int64 key -> int64 token id."""
    return 0xFFFFFFFF - (key & 0xFFFFFFFF)


def pack_reference(score: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """:func:`pack_key` of :func:`order_of` in plain PyTorch; float32 scores, int64 ids."""
    bits = torch.where(score == 0, 0.0, score.float()).view(torch.int32)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    order = torch.where(score.isnan(), 0x7FFFFFFF, order)
    return (order.long() << 32) | (0xFFFFFFFF - token.long())
