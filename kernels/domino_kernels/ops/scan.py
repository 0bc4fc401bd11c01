"""The pass over the vocabulary: correction, add, temperature, noise, argmax and online logsumexp, in one read of W2.

No corrected logits reach memory: each program keeps its running best and logsumexp, and the programs meet in an
``atomic_max`` on the candidate's key, whose result does not depend on their order.
Source: arXiv 2605.29707, section 3; Gumbel-max for the sample.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from domino_kernels.ops.correction import correct_tile, load_correction
from domino_kernels.ops.ordering import LOWEST_KEY, LOWEST_ORDER, order_of, pack_key, pack_reference
from domino_kernels.ops.random_numbers import counter_key, log_exponential


@triton.jit
def finite_or_zero(x):
    """``torch.logsumexp``'s shift: an infinite maximum must not be subtracted from itself."""
    return tl.where(tl.abs(x) == float("inf"), 0.0, x)


@triton.jit(do_not_specialize=["first_proposal", "batch", "num_proposals", "vocab_start"])
def scan_kernel(
    first_proposal,
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
    seed_ptr,
    position_ptr,
    batch,
    num_proposals,
    vocab,
    vocab_start,
    rank,
    CORRECTED: tl.constexpr,
    SAMPLED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_R: tl.constexpr,
    WHOLE_RANK: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Tiles ``pid, pid + num_programs, ...`` of the vocabulary for one proposal and one block of requests.

    Grid ``(batch blocks, programs, proposals)``; batch blocks vary fastest so that they share W2 tiles in the L2. More
    than one proposal at once only for uncorrected ones: those wait for no token.

    Writes ``key_ptr`` int64 ``[S, B]`` by atomic maximum, and this program's logsumexp as maximum and sum into
    ``max_ptr``, ``sum_ptr`` float32 ``[S, B, num_programs]``.
    """
    pid, num_programs = tl.program_id(1), tl.num_programs(1)
    j = first_proposal + tl.program_id(2)
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    row_mask = b < batch
    base = base_ptr + b.to(tl.int64) * stride_base_b + j * tl.cast(stride_base_s, tl.int64)
    c_rows = correction_ptr + (b.to(tl.int64) * num_proposals + j) * rank
    if CORRECTED:
        c = load_correction(c_rows, row_mask, rank, BLOCK_R, WHOLE_RANK)
    if SAMPLED:
        temperature = tl.load(temperature_ptr + b, mask=row_mask, other=0.0)
        sampled = temperature > 0
        scale = tl.where(sampled, temperature, 1.0)
        low, high = counter_key(
            tl.load(seed_ptr + b, mask=row_mask, other=0), tl.load(position_ptr + b, mask=row_mask, other=0), j
        )
        any_sampled = tl.max(sampled.to(tl.int32), axis=0) > 0
    best = tl.full([BLOCK_B], LOWEST_KEY, tl.int64)
    highest = tl.full([BLOCK_B], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_B], tl.float32)
    for tile in tl.range(pid, tl.cdiv(vocab, BLOCK_V), num_programs, num_stages=NUM_STAGES):
        v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        inside = v < vocab
        x = tl.load(
            base[None, :] + v.to(tl.int64)[:, None] * stride_base_v,
            mask=inside[:, None] & row_mask[None, :],
            other=0.0,
            eviction_policy="evict_first",
        ).to(tl.float32)
        if CORRECTED:
            w_rows = w2_ptr + v.to(tl.int64) * stride_w2
            x += correct_tile(
                c, c_rows, row_mask, w_rows, inside, rank,
                BLOCK_B, BLOCK_V, BLOCK_R, WHOLE_RANK, USE_DOT, UPCAST, NUM_STAGES,
            )  # fmt: skip
        score = x
        if SAMPLED:
            x = tl.div_rn(x, tl.broadcast_to(scale[None, :], [BLOCK_V, BLOCK_B]))
            score = x
            if any_sampled:
                noise = log_exponential(low[None, :], high[None, :], (vocab_start + v)[:, None])
                score = tl.where(sampled[None, :], x - noise, x)
        order = tl.where(inside[:, None], order_of(score), LOWEST_ORDER)
        tile_best = tl.max(order, axis=0)
        first = tl.min(tl.where(order == tile_best[None, :], v[:, None], 0x7FFFFFFF), axis=0)
        best = tl.maximum(best, pack_key(tile_best, vocab_start + first))
        x = tl.where(inside[:, None], x, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(x, axis=0))
        shift = finite_or_zero(new_highest)
        total = total * tl.exp(highest - shift) + tl.sum(tl.exp(x - shift[None, :]), axis=0)
        highest = new_highest
    row = j * batch + b
    tl.atomic_max(key_ptr + row, best, mask=row_mask, sem="relaxed")
    tl.store(max_ptr + row.to(tl.int64) * num_programs + pid, highest, mask=row_mask)
    tl.store(sum_ptr + row.to(tl.int64) * num_programs + pid, total, mask=row_mask)


def scan_reference(
    base_logits: torch.Tensor,
    correction: torch.Tensor,
    w2: torch.Tensor,
    noise: torch.Tensor | None = None,
    temperature: torch.Tensor | None = None,
    vocab_start: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Key of the best candidate and logsumexp, ``[B]`` each, in plain float32 PyTorch.

    Args:
        base_logits: ``[B, V]``; correction: ``[B, R]``; w2: ``[V, R]``.
        noise: float32 ``[B, V]`` draws of ``log(Exp(1))``, ignored where ``temperature`` is 0.
    """
    x = base_logits.float() + F.linear(correction.float(), w2.float())
    score = x
    if temperature is not None and noise is not None:
        x = x / torch.where(temperature > 0, temperature, 1.0)[:, None]
        score = x - torch.where(temperature > 0, 1.0, 0.0)[:, None] * noise
    token = score.argmax(-1)
    best = score.gather(-1, token[:, None]).squeeze(-1)
    return pack_reference(best, token + vocab_start), x.logsumexp(-1)
