"""Which token wins: ties, NaN, infinities, random numbers, frequencies."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from rollout_cases import check, make_case
from scipy import stats

from domino_kernels.ops.ordering import NO_CANDIDATE, order_of, pack_key, pack_reference, token_of
from domino_kernels.ops.random_numbers import counter_key, log_exponential
from domino_kernels.rollout import _Run
from domino_sglang.core.head import DraftSampling, proposal_noise

NAN, INF = float("nan"), float("inf")


@triton.jit
def noise_kernel(seed_ptr, position_ptr, out_ptr, index, vocab, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    v = tl.arange(0, BLOCK)
    low, high = counter_key(tl.load(seed_ptr + row), tl.load(position_ptr + row), index)
    tl.store(out_ptr + row * vocab + v, log_exponential(low, high, v), mask=v < vocab)


@triton.jit
def key_kernel(score_ptr, key_ptr, token_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    key = pack_key(order_of(tl.load(score_ptr + i, mask=i < n, other=0.0)), i)
    tl.store(key_ptr + i, key, mask=i < n)
    tl.store(token_ptr + i, token_of(key), mask=i < n)


@pytest.mark.parametrize("index", [0, 1, 14])
def test_random_numbers_are_the_oracles(device, index):
    seed = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 123456789012345], device=device)
    position = torch.tensor([0, 1, 77, 2**31, 131071, 5], device=device)
    want = proposal_noise(DraftSampling(torch.ones(6, device=device), seed, position), index, 1000)
    got = torch.empty_like(want)
    noise_kernel[(6,)](seed, position, got, index, 1000, BLOCK=1024)
    torch.testing.assert_close(got, want, atol=2e-6, rtol=2e-6)


def test_the_largest_key_is_torchs_argmax(device):
    values = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e-45, -1e-45, 3e38, -3e38, 2.0]
    generator = torch.Generator().manual_seed(3)
    for length in (2, 3, 5, 12):
        for _ in range(10):
            pick = torch.randint(len(values), (length,), generator=generator)
            score = torch.tensor(values)[pick].to(device)
            key, token = torch.empty(length, dtype=torch.int64, device=device), torch.empty(length, device=device)
            key_kernel[(1,)](score, key, token := token.long(), length, BLOCK=16)
            assert key.argmax() == score.argmax(), score
            assert token.tolist() == list(range(length))
            torch.testing.assert_close(key, pack_reference(score, torch.arange(length, device=device)))


@pytest.mark.parametrize("variant", ["fused", "persistent"])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_lowest_of_equal_scores_wins(device, variant, batch):
    case = make_case(batch=batch, vocab=517, variant=variant, device=device)
    case.weights.w2.zero_()
    case.base.copy_(torch.randint(-2, 3, case.base.shape, generator=torch.Generator().manual_seed(1)).float() * 0.5)
    case.base[case.base == 0] = -0.0
    case.base[:, 1] = torch.where(torch.arange(517, device=device) % 2 == 0, -0.0, 0.0)
    got, want = case.run(), case.oracle()
    assert torch.equal(got.tokens, want.tokens)
    assert (got.tokens[:, 1] == 0).all()


@pytest.mark.parametrize("variant", ["fused", "persistent"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sampled", [False, True])
def test_nan_and_infinite_logits(device, variant, batch, sampled):
    case = make_case(batch=batch, proposals=7, vocab=300, variant=variant, sampled=sampled, device=device)
    base = case.base
    base[:, 0, 50], base[:, 0, 299] = NAN, NAN
    base[:, 1, 7], base[:, 1, 260] = INF, INF
    base[:, 2] = -INF
    base[:, 3, :200] = -INF
    base[:, 4, 10], base[:, 4, 250] = INF, NAN
    base[:, 5] = NAN
    base[:, 6] -= 500.0
    got, want = case.run(), case.oracle()
    assert torch.equal(got.tokens, want.tokens)
    # The logit of a large negative row keeps few digits below the point.
    torch.testing.assert_close(got.logsumexp, want.logsumexp, equal_nan=True, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(got.log_q, want.log_q, equal_nan=True, atol=2e-4, rtol=1e-5)


def test_a_request_draws_the_same_whatever_is_beside_it(device):
    case = make_case(batch=7, sampled=True, device=device)
    whole = case.run().tokens.clone()
    for row in (1, 6):
        one = slice(row, row + 1)
        sampling = DraftSampling(*(t[one] for t in vars(case.sampling).values()))
        alone = case.with_(z=case.z[one], base=case.base[one], bonus=case.bonus[one], sampling=sampling).run()
        assert torch.equal(alone.tokens, whole[one])


@pytest.mark.parametrize("prefix", [0, 1])
def test_sampled_frequencies(device, prefix):
    """Chi-square of one proposal drawn with many seeds, corrected or not, against softmax of the oracle's logits."""
    batch, vocab, temperature = 256, 11, 0.8
    one = make_case(batch=1, proposals=1, vocab=vocab, prefix=prefix, device=device)
    case = one.with_(
        z=one.z.expand(batch, -1, -1), base=one.base.expand(batch, -1, -1), bonus=one.bonus.expand(batch).contiguous()
    )
    expected = (one.scores(one.oracle(), 0)[0] / temperature).cpu().double().softmax(-1)
    rollout = case.built()
    counts = torch.zeros(vocab)
    for call in range(12):
        sampling = DraftSampling(
            torch.full((batch,), temperature, device=device),
            torch.arange(batch, device=device) * 7919 + call,
            torch.full((batch,), 40 + call, device=device),
        )
        run = _Run(rollout, rollout.plan(batch), case.z, case.base, case.bonus, sampling)
        # Not through finalize, whose program per request takes the interpreter minutes.
        rollout._keys.fill_(NO_CANDIDATE)
        run.project_hidden()
        run.fused()
        tokens = 0xFFFFFFFF - (run.keys[0] & 0xFFFFFFFF)
        counts += torch.bincount(tokens.cpu(), minlength=vocab)
    result = stats.chisquare(counts.double(), expected / expected.sum() * counts.sum())
    assert result.pvalue > 1e-4, (counts, expected)


def test_log_q_is_the_draft_distributions(device):
    check(make_case(batch=5, sampled=True, vocab=50, device=device))
