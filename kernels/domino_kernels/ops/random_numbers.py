"""Counter-based random numbers inside a kernel: bit for bit the words of ``domino_sglang.core.random_numbers``.

One number per (seed, position, proposal, token id), so a draw does not depend on tiling, batch or replay.
"""

from __future__ import annotations

import triton
import triton.language as tl

STREAM_PROPOSAL = tl.constexpr(1)
STREAM_BONUS = tl.constexpr(3)
"""Must equal those of ``domino_sglang.core.random_numbers``."""


@triton.jit
def mix32(x):
    """Wellons' ``lowbias32`` on uint32 of any shape."""
    x = (x ^ (x >> 16)) * tl.full((), 0x7FEB352D, tl.uint32)
    x = (x ^ (x >> 15)) * tl.full((), 0x846CA68B, tl.uint32)
    return x ^ (x >> 16)


@triton.jit
def counter_key(seed, position, index, STREAM: tl.constexpr = STREAM_PROPOSAL):
    """Two uint32 words that name one row of numbers; ``seed`` and ``position`` int64 ``[N]``, ``index`` an integer or
    ``[N]``."""
    low = mix32(seed.to(tl.uint32) ^ tl.full((), 0x9E3779B9, tl.uint32))
    high = mix32((seed >> 32).to(tl.uint32) ^ low)
    low = mix32(low ^ position.to(tl.uint32))
    high = mix32(high + low)
    low = mix32(low + high + tl.cast(index * 8 + STREAM, tl.uint32))
    high = mix32(high ^ low ^ tl.full((), 0x85EBCA6B, tl.uint32))
    return low, high


@triton.jit
def exponential(low, high, element):
    """``Exp(1)`` in float32, broadcast over the key words and the token ids (int32)."""
    bits = mix32(mix32(element.to(tl.uint32) ^ low) + high)
    u = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 1.0 - 5.960464477539063e-08)
    # Kahan's log1p: exact enough (a few ulp) without libdevice, which the interpreter lacks.
    kept = 1.0 - u
    return tl.where(kept == 1.0, u, tl.log(kept) * u / tl.where(kept == 1.0, -1.0, kept - 1.0))


@triton.jit
def log_exponential(low, high, element):
    """The logarithm of :func:`exponential`."""
    return tl.log(exponential(low, high, element))
