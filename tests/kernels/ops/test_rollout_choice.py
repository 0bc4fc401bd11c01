"""Which token wins: ties, NaN, infinities, frequencies."""

from __future__ import annotations

import pytest
import torch
from rollout_cases import check, make_case
from scipy import stats

from domino_kernels.ops.ordering import NO_CANDIDATE
from domino_kernels.rollout import _Run
from domino_sglang.core.head import DraftSampling

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("batch", [1, 3])
def test_the_lowest_of_equal_scores_wins(device, batch):
    case = make_case(batch=batch, vocab=517, device=device)
    case.weights.w2.zero_()
    case.base.copy_(torch.randint(-2, 3, case.base.shape, generator=torch.Generator().manual_seed(1)).float() * 0.5)
    case.base[case.base == 0] = -0.0
    case.base[:, 1] = torch.where(torch.arange(517, device=device) % 2 == 0, -0.0, 0.0)
    got, want = case.run(), case.oracle()
    assert torch.equal(got.tokens, want.tokens)
    assert (got.tokens[:, 1] == 0).all()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sampled", [False, True])
def test_nan_and_infinite_logits(device, batch, sampled):
    case = make_case(batch=batch, proposals=7, vocab=300, sampled=sampled, device=device)
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
        run.propose()
        tokens = 0xFFFFFFFF - (run.keys[0] & 0xFFFFFFFF)
        counts += torch.bincount(tokens.cpu(), minlength=vocab)
    result = stats.chisquare(counts.double(), expected / expected.sum() * counts.sum())
    assert result.pvalue > 1e-4, (counts, expected)


def test_log_q_is_the_draft_distributions(device):
    check(make_case(batch=5, sampled=True, vocab=50, device=device))
