"""The bonus token after a rejection: a row of q again, ``max(scale * p - q, 0)`` and an exponential race, in one pass.

Neither the row of q nor the residual reaches memory. A second race over p itself runs beside it, for the residual that
rounding has left without mass. Programs meet in an ``atomic_max`` on keys, as in the scan.
"""

from __future__ import annotations

import triton
import triton.language as tl

from domino_kernels.ops.correction import correct_tile, load_correction
from domino_kernels.ops.ordering import LOWEST_KEY, LOWEST_ORDER, order_of, pack_key
from domino_kernels.ops.random_numbers import STREAM_BONUS, counter_key, exponential


@triton.jit
def finite(x):
    """NaN and infinities count as no mass."""
    return tl.where(tl.abs(x) < float("inf"), x, 0.0)


@triton.jit
def first_of(mass, noise, v, inside):
    """Keys of who arrives first at ``noise / mass``, among the tokens of a tile ``[V, B]`` -> ``[B]``."""
    order = tl.where(inside[:, None], order_of(tl.div_rn(mass, noise)), LOWEST_ORDER)
    best = tl.max(order, axis=0)
    token = tl.min(tl.where(order == best[None, :], v[:, None], 0x7FFFFFFF), axis=0)
    return pack_key(best, token)


# A part of a batch begins anywhere in these: another kernel for each alignment would be compiled while serving.
ANY_ALIGNMENT = [
    "correction_ptr",
    "logsumexp_ptr",
    "token_ptr",
    "index_ptr",
    "scale_ptr",
    "temperature_ptr",
    "seed_ptr",
    "position_ptr",
]


@triton.jit(do_not_specialize=["batch", "num_proposals"], do_not_specialize_on_alignment=ANY_ALIGNMENT)
def residual_kernel(
    p_ptr,
    stride_p_b,
    stride_p_n,
    base_ptr,
    stride_base_b,
    stride_base_s,
    stride_base_v,
    correction_ptr,
    w2_ptr,
    stride_w2,
    logsumexp_ptr,
    token_ptr,
    index_ptr,
    scale_ptr,
    temperature_ptr,
    seed_ptr,
    position_ptr,
    key_ptr,
    batch,
    num_proposals,
    vocab,
    drafted_vocab,
    rank,
    BLOCK_B: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_R: tl.constexpr,
    WHOLE_RANK: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Grid ``(batch blocks, programs)``; writes ``key_ptr`` int64 ``[2, B]``: the residual's winner, and p's.

    ``index`` int64 ``[B]`` is the row of p; at ``num_proposals`` nothing was drafted and q is zero. A request of
    temperature 0 has the point mass at its token for a q. ``vocab`` is p's width, ``drafted_vocab`` q's.
    """
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    row_mask = b < batch
    b64 = b.to(tl.int64)
    index = tl.load(index_ptr + b, mask=row_mask, other=0)
    drafted = index < num_proposals
    row = b64 * num_proposals + tl.minimum(index, num_proposals - 1)
    temperature = tl.load(temperature_ptr + b, mask=row_mask, other=0.0)
    has_q = row_mask & drafted & (temperature > 0)
    divisor = tl.where(temperature > 0, temperature, 1.0)
    scale = tl.load(scale_ptr + b, mask=row_mask, other=0.0)
    shift = tl.load(logsumexp_ptr + row, mask=has_q, other=0.0)
    # What a point mass takes away: its token.
    taken = tl.load(token_ptr + row, mask=row_mask & drafted & (temperature <= 0), other=-1)
    low, high = counter_key(
        tl.load(seed_ptr + b, mask=row_mask, other=0),
        tl.load(position_ptr + b, mask=row_mask, other=0),
        index,
        STREAM_BONUS,
    )
    p_rows = p_ptr + b64 * stride_p_b + index * stride_p_n
    base = base_ptr + b64 * stride_base_b + tl.minimum(index, num_proposals - 1) * stride_base_s
    c_rows = correction_ptr + row * rank
    c = load_correction(c_rows, has_q, rank, BLOCK_R, WHOLE_RANK)
    best = tl.full([BLOCK_B], LOWEST_KEY, tl.int64)
    best_of_p = tl.full([BLOCK_B], LOWEST_KEY, tl.int64)
    for tile in tl.range(tl.program_id(1), tl.cdiv(vocab, BLOCK_V), tl.num_programs(1), num_stages=NUM_STAGES):
        v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        inside, in_q = v < vocab, v < drafted_vocab
        v64 = v.to(tl.int64)
        p = tl.load(p_rows[None, :] + v64[:, None], mask=inside[:, None] & row_mask[None, :], other=0.0)
        p = finite(p)
        reads = in_q[:, None] & has_q[None, :]
        x = tl.load(base[None, :] + v64[:, None] * stride_base_v, mask=reads, other=0.0).to(tl.float32)
        correction = correct_tile(
            c, c_rows, has_q, w2_ptr + v64 * stride_w2, in_q, rank,
            BLOCK_B, BLOCK_V, BLOCK_R, WHOLE_RANK, USE_DOT, UPCAST, NUM_STAGES,
        )  # fmt: skip
        x = tl.div_rn(x + correction, tl.broadcast_to(divisor[None, :], [BLOCK_V, BLOCK_B]))
        q = tl.where(reads, finite(tl.exp(x - shift[None, :])), 0.0)
        mass = tl.maximum(p * scale[None, :] - q, 0.0)
        mass = tl.where(v64[:, None] == taken[None, :], 0.0, mass)
        noise = exponential(low[None, :], high[None, :], v[:, None])
        best = tl.maximum(best, first_of(mass, noise, v, inside))
        best_of_p = tl.maximum(best_of_p, first_of(p, noise, v, inside))
    tl.atomic_max(key_ptr + b, best, mask=row_mask, sem="relaxed")
    tl.atomic_max(key_ptr + batch + b, best_of_p, mask=row_mask, sem="relaxed")
