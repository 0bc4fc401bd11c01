"""Tokens out of keys, logsumexp out of partials, log q of each token; and the same over ranks."""

from __future__ import annotations

import pytest
import torch

from domino_kernels.ops.finalize import finalize_kernel, merge_keys_kernel, merge_shards_kernel
from domino_kernels.ops.ordering import pack_reference
from domino_sglang.core.head import corrected_logits

TOLERANCE = 1e-5
PROPOSALS, PREFIX, PROGRAMS, START = 3, 1, 5, 200


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("batch", "vocab", "rank"), [(1, 130, 8), (4, 97, 33), (2, 5, 1)])
@pytest.mark.parametrize(("sampled", "sharded"), [(False, False), (True, False), (True, True)])
def test_what_a_block_leaves(device, dtype, batch, vocab, rank, sampled, sharded):
    base = torch.randn(batch, PROPOSALS + 1, vocab).to(device, dtype)[:, 1:]
    correction = torch.randn(batch, PROPOSALS, rank).to(device, dtype)
    w2 = torch.randn(vocab, rank).to(device, dtype)
    temperature = torch.tensor([0.7, 0.0, 1.3], device=device)[torch.arange(batch, device=device) % 3]
    # Sharded, some tokens are other ranks'.
    tokens = torch.randint(START - vocab if sharded else START, START + vocab, (batch, PROPOSALS), device=device)
    keys = pack_reference(torch.randn(PROPOSALS, batch, device=device), tokens.T)
    c = correction.clone()
    c[:, :PREFIX] = 0
    logits = corrected_logits(base.flatten(0, 1), c.flatten(0, 1), w2).view(batch, PROPOSALS, vocab)
    if sampled:
        logits = logits / torch.where(temperature > 0, temperature, 1.0)[:, None, None]
    maxima, sums = partials(logits.transpose(0, 1))
    got = torch.full((batch, PROPOSALS), -1, device=device)
    log_q, logsumexp = torch.full((2, batch, PROPOSALS), float("nan"), device=device)
    stats = torch.full((batch, PROPOSALS, 2), float("nan"), device=device)
    finalize_kernel[(batch, PROPOSALS)](
        base, *base.stride(), correction, w2, w2.stride(0), keys, maxima, sums, temperature,
        got, log_q, logsumexp, stats, batch, PROPOSALS, vocab, START, rank, PROGRAMS, PREFIX,
        SAMPLED=sampled, SHARDED=sharded, BLOCK_P=4, BLOCK_R=16,
    )  # fmt: skip
    assert torch.equal(got, tokens) and torch.equal(correction, c)
    local = (tokens - START)[:, :, None]
    logit = torch.where(local >= 0, logits.gather(2, local.clamp(min=0)), -torch.inf).squeeze(2)
    close = dict(atol=TOLERANCE, rtol=TOLERANCE)
    if sharded:
        torch.testing.assert_close(stats, torch.stack((logit, logits.logsumexp(-1)), -1), **close)
    else:
        torch.testing.assert_close(log_q, logits.log_softmax(-1).gather(2, local).squeeze(2), **close)
        torch.testing.assert_close(logsumexp, logits.logsumexp(-1), **close)


def partials(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum and sum of each program's tokens, as a scan leaves them: ``[S, B, V]`` -> twice ``[S, B, PROGRAMS]``."""
    parts = [logits[:, :, i::PROGRAMS] for i in range(PROGRAMS)]
    maxima = torch.stack([part.amax(-1) for part in parts], -1)
    return maxima, torch.stack([(x - x.amax(-1, keepdim=True)).exp().sum(-1) for x in parts], -1)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 130])
def test_the_best_key_of_all_ranks(device, ranks, count):
    tokens = torch.randint(2**31, (ranks, count), device=device)
    gathered = pack_reference(torch.randn(ranks, count, device=device), tokens)
    key, token = torch.empty(2, count, dtype=torch.int64, device=device)
    merge_keys_kernel[((count + 127) // 128,)](gathered, key, token, count, ranks, BLOCK=128)
    assert torch.equal(key, gathered.amax(0))
    assert torch.equal(token, tokens.gather(0, gathered.argmax(0, keepdim=True))[0])


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 7, 130])
def test_log_q_of_all_ranks(device, ranks, count):
    owner = torch.randint(ranks, (count,), device=device)
    logit, parts = torch.randn(count, device=device), torch.randn(ranks, count, device=device)
    parts[:, 0] = -torch.inf
    mine = torch.arange(ranks, device=device)[:, None] == owner
    gathered = torch.stack((torch.where(mine, logit, -torch.inf), parts), -1)
    log_q, logsumexp = torch.empty(2, count, device=device)
    merge_shards_kernel[((count + 127) // 128,)](gathered, log_q, logsumexp, count, ranks, BLOCK=128)
    want = parts.logsumexp(0)
    torch.testing.assert_close(logsumexp, want, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(log_q, logit - want, atol=TOLERANCE, rtol=TOLERANCE)
