"""What follows the loop: tokens out of keys, logsumexp out of partials, log q of each token. Off the critical path."""

from __future__ import annotations

import triton
import triton.language as tl

from domino_kernels.ops.ordering import LOWEST_KEY, order_of, token_of
from domino_kernels.ops.scan import finite_or_zero


@triton.jit(do_not_specialize=["batch", "num_proposals", "vocab_start", "num_programs", "prefix"])
def finalize_kernel(
    base_ptr,
    stride_base_b,
    stride_base_s,
    stride_base_v,
    correction_ptr,
    w2_ptr,
    stride_w2,
    key_ptr,
    max_ptr,
    sum_ptr,
    temperature_ptr,
    token_ptr,
    log_q_ptr,
    logsumexp_ptr,
    stats_ptr,
    batch,
    num_proposals,
    vocab,
    vocab_start,
    rank,
    num_programs,
    prefix,
    SAMPLED: tl.constexpr,
    SHARDED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Grid ``(B, S)``: one proposal of one request.

    The token's logit is computed again from its row of W2 (R numbers) instead of being carried through the scan.
    Sharded, the pair (logit or -inf where another rank owns the token, logsumexp) goes to ``stats_ptr``
    float32 ``[B, S, 2]`` for :func:`merge_shards_kernel`; else log q and logsumexp, float32 ``[B, S]``, are final.
    """
    b = tl.program_id(0)
    j = tl.program_id(1)
    at = b * num_proposals + j
    row = j * batch + b
    token = token_of(tl.load(key_ptr + row))
    local = token - vocab_start
    mine = (local >= 0) & (local < vocab)
    logit = tl.load(
        base_ptr + b.to(tl.int64) * stride_base_b + j * tl.cast(stride_base_s, tl.int64) + local * stride_base_v,
        mask=mine,
        other=float("-inf"),
    ).to(tl.float32)
    c_row = correction_ptr + at.to(tl.int64) * rank
    corrected = j >= prefix
    dot = 0.0
    for start in range(0, rank, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        c = tl.load(c_row + r, mask=(r < rank) & corrected, other=0.0).to(tl.float32)
        w = tl.load(w2_ptr + local * stride_w2 + r, mask=(r < rank) & mine & corrected, other=0.0).to(tl.float32)
        dot += tl.sum(c * w, axis=0)
        tl.store(c_row + r, tl.zeros([BLOCK_R], correction_ptr.dtype.element_ty), mask=(r < rank) & (corrected == 0))
    logit += dot
    if SAMPLED:
        temperature = tl.load(temperature_ptr + b)
        logit = tl.div_rn(logit, tl.where(temperature > 0, temperature, 1.0))
    highest = float("-inf")
    total = 0.0
    for start in range(0, num_programs, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        part = row.to(tl.int64) * num_programs + p
        maxima = tl.load(max_ptr + part, mask=p < num_programs, other=float("-inf"))
        sums = tl.load(sum_ptr + part, mask=p < num_programs, other=0.0)
        new_highest = tl.maximum(highest, tl.max(maxima, axis=0))
        shift = finite_or_zero(new_highest)
        total = total * tl.exp(highest - shift) + tl.sum(sums * tl.exp(maxima - shift), axis=0)
        highest = new_highest
    logsumexp = finite_or_zero(highest) + tl.log(total)
    tl.store(token_ptr + at, token)
    if SHARDED:
        tl.store(stats_ptr + 2 * at, logit)
        tl.store(stats_ptr + 2 * at + 1, logsumexp)
    else:
        tl.store(log_q_ptr + at, logit - logsumexp)
        tl.store(logsumexp_ptr + at, logsumexp)


@triton.jit(do_not_specialize=["count", "num_shards"])
def merge_keys_kernel(gathered_ptr, key_ptr, token_ptr, count, num_shards, BLOCK: tl.constexpr):
    """Maximum over ranks of int64 keys ``[W, count]`` into ``key_ptr [count]``, and its tokens into ``token_ptr``."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    best = tl.full([BLOCK], LOWEST_KEY, tl.int64)
    for shard in range(0, num_shards):
        key = tl.load(gathered_ptr + shard * count + i, mask=i < count, other=LOWEST_KEY)
        best = tl.maximum(best, key)
    tl.store(key_ptr + i, best, mask=i < count)
    tl.store(token_ptr + i, token_of(best), mask=i < count)


@triton.jit(do_not_specialize=["count", "num_shards"])
def merge_shards_kernel(gathered_ptr, log_q_ptr, logsumexp_ptr, count, num_shards, BLOCK: tl.constexpr):
    """(logit, logsumexp) of every rank, float32 ``[W, count, 2]``, into log q and logsumexp ``[count]``."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    logit = tl.full([BLOCK], float("-inf"), tl.float32)
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for shard in range(0, num_shards):
        pair = gathered_ptr + (shard * count + i) * 2
        theirs = tl.load(pair, mask=mask, other=float("-inf"))
        logit = tl.where(order_of(theirs) > order_of(logit), theirs, logit)
        part = tl.load(pair + 1, mask=mask, other=float("-inf"))
        new_highest = tl.maximum(highest, part)
        shift = finite_or_zero(new_highest)
        total = total * tl.exp(highest - shift) + tl.exp(part - shift)
        highest = new_highest
    logsumexp = finite_or_zero(highest) + tl.log(total)
    tl.store(log_q_ptr + i, logit - logsumexp, mask=mask)
    tl.store(logsumexp_ptr + i, logsumexp, mask=mask)
