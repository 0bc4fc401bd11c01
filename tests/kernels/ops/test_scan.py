"""The pass over the vocabulary: best candidate and logsumexp."""

from __future__ import annotations

import pytest
import torch
import triton

from domino_kernels.device import INTERPRETED
from domino_kernels.ops.ordering import NO_CANDIDATE
from domino_kernels.ops.scan import scan_kernel, scan_reference
from domino_sglang.core.head import DraftSampling, proposal_noise

TOLERANCE = 1e-5
PROPOSALS, PROGRAMS, START = 2, 3, 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("batch", "vocab", "rank", "block_b", "block_r"),
    [(1, 130, 8, 1, 16), (2, 97, 3, 2, 16), (5, 201, 33, 16, 64), (17, 64, 40, 16, 16), (1, 1, 1, 1, 16)],
)
@pytest.mark.parametrize(("corrected", "sampled"), [(True, False), (True, True), (False, True)])
def test_the_best_token_and_the_logsumexp(device, dtype, batch, vocab, rank, block_b, block_r, corrected, sampled):
    base = (3 * torch.randn(batch, PROPOSALS + 1, vocab)).to(device, dtype)[:, 1:]
    correction = torch.randn(batch, PROPOSALS, rank).to(device, dtype)
    w2 = torch.randn(vocab, rank).to(device, dtype)
    temperature = torch.tensor([0.7, 0.0, 1.3], device=device)[torch.arange(batch, device=device) % 3]
    ids = torch.arange(batch, device=device)
    sampling = DraftSampling(temperature, ids * 7919 - 5, ids + 40)
    keys = torch.full((PROPOSALS, batch), NO_CANDIDATE, dtype=torch.int64, device=device)
    maxima, sums = torch.full((2, PROPOSALS, batch, PROGRAMS), float("nan"), device=device)
    first, count = (1, 1) if corrected else (0, PROPOSALS)
    scan_kernel[(triton.cdiv(batch, block_b), PROGRAMS, count)](
        first, base, *base.stride(), correction, w2, w2.stride(0), keys, maxima, sums,
        temperature, sampling.seed, sampling.position, batch, PROPOSALS, vocab, START, rank,
        CORRECTED=corrected, SAMPLED=sampled, BLOCK_B=block_b, BLOCK_V=16, BLOCK_R=block_r,
        WHOLE_RANK=block_r >= rank, USE_DOT=block_b >= 16, UPCAST=INTERPRETED, NUM_STAGES=2,
    )  # fmt: skip
    for j in range(first, first + count):
        c = correction[:, j] if corrected else torch.zeros_like(correction[:, j])
        noise = proposal_noise(sampling, j, vocab, START) if sampled else None
        want, want_lse = scan_reference(base[:, j], c, w2, noise, temperature if sampled else None, START)
        lse = (maxima[j] + sums[j].log()).logsumexp(-1)
        torch.testing.assert_close(lse, want_lse, atol=TOLERANCE, rtol=TOLERANCE)
        assert torch.equal(keys[j] & 0xFFFFFFFF, want & 0xFFFFFFFF)
