"""The edges of sampled acceptance, token-wise and block: what the distribution tests cannot provoke by chance."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from domino_sglang.core.head import Draft, DraftSampling, choose
from domino_sglang.core.random_numbers import STREAM_BONUS, counter_key, exponential
from domino_sglang.core.verify import DraftRows, accept_block, accept_greedy, accept_sampled, race, residual

RULES = pytest.mark.parametrize("rule", [accept_sampled, accept_block])


@dataclasses.dataclass
class Block:
    """A random batch of drafted blocks, ready to be spoilt by a test."""

    p: torch.Tensor
    tokens: torch.Tensor
    log_q: torch.Tensor
    rows: DraftRows
    sampling: DraftSampling

    def verify(self, rule, **more):
        return rule(self.p, self.tokens, self.log_q, self.rows, self.sampling, **more)


def drafted(batch=64, proposals=4, vocab=16, temperature=1.0, seed=0) -> Block:
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(batch, proposals, vocab, generator=g)
    sampling = DraftSampling(
        torch.full((batch,), temperature),
        torch.randint(-(2**62), 2**62, (batch,), generator=g),
        torch.randint(0, 5000, (batch,), generator=g),
    )
    tokens, log_q, logsumexp = (
        torch.stack(x, 1) for x in zip(*(choose(base[:, j], j, sampling) for j in range(proposals)), strict=True)
    )
    draft = Draft(tokens, log_q, logsumexp, torch.zeros(batch, proposals, 1))
    shift = torch.randn(batch, proposals + 1, vocab, generator=g)
    p = (torch.cat([base, base[:, :1]], 1) + 0.7 * shift).softmax(-1)
    return Block(p, tokens, log_q, DraftRows(base, torch.zeros(vocab, 1), draft, sampling), sampling)


@RULES
def test_a_request_gets_the_same_tokens_whatever_else_is_in_the_batch(rule):
    block = drafted(batch=32)
    whole = block.verify(rule)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(5))
    for index in (order, order[:7], torch.tensor([11])):
        sampling = DraftSampling(
            *(x[index] for x in (block.sampling.temperature, block.sampling.seed, block.sampling.position))
        )
        draft = Draft(*(getattr(block.rows.draft, f.name)[index] for f in dataclasses.fields(Draft)))
        rows = DraftRows(block.rows.base_logits[index], block.rows.w2, draft, sampling)
        part = Block(block.p[index], block.tokens[index], block.log_q[index], rows, sampling).verify(rule)
        assert torch.equal(part.accept_len, whole.accept_len[index]) and torch.equal(part.bonus, whole.bonus[index])
    again = block.verify(rule)
    assert torch.equal(again.bonus, whole.bonus)


@RULES
def test_another_seed_or_position_draws_anew(rule):
    block = drafted(batch=200)
    first = block.verify(rule)
    for change in ({"seed": block.sampling.seed + 1}, {"position": block.sampling.position + 1}):
        block.sampling = dataclasses.replace(block.sampling, **change)
        assert not torch.equal(block.verify(rule).bonus, first.bonus)


@RULES
def test_no_probability_no_acceptance(rule):
    block = drafted()
    block.p.scatter_(-1, torch.cat([block.tokens, block.tokens[:, :1]], 1)[..., None], 0.0)
    result = block.verify(rule)
    assert (result.accept_len == 0).all()
    assert (block.p[:, 0].gather(1, result.bonus[:, None]) > 0).all()


@RULES
def test_equal_distributions_accept_everything(rule):
    block = drafted(batch=2000)
    block.p[:, :-1] = torch.stack([block.rows(j) for j in range(4)], 1)
    assert (block.verify(rule).accept_len == 4).float().mean() > 0.999


@RULES
def test_an_empty_residual_falls_back_to_the_target(rule):
    """q above p everywhere (rounding, exaggerated here) and a rejection: the bonus is a token that p allows."""
    block = drafted(batch=500)
    block.p = torch.zeros_like(block.p)
    block.p[..., 3] = 1.0
    block.tokens = torch.full_like(block.tokens, 2)
    result = rule(block.p, block.tokens, block.log_q, lambda index: torch.full((500, 16), 2.0), block.sampling)
    assert (result.accept_len == 0).all() and (result.bonus == 3).all()


def test_the_fallback_draws_from_p_itself():
    block = drafted(batch=20_000, proposals=1, vocab=4)
    p = torch.tensor([0.0, 0.5, 0.3, 0.2]).expand(20_000, 2, 4)
    result = accept_sampled(
        p, torch.zeros(20_000, 1, dtype=torch.int64), block.log_q, lambda i: torch.ones(20_000, 4), block.sampling
    )
    share = torch.bincount(result.bonus, minlength=4) / 20_000
    assert torch.allclose(share, p[0, 0], atol=0.015)


@RULES
def test_q_below_float32_is_compared_in_log_space(rule):
    """exp(-300) is zero in float32; p / q is huge all the same, so the proposal is accepted."""
    block = drafted()
    block.log_q = torch.full_like(block.log_q, -300.0)
    assert (accept_sampled(block.p, block.tokens, block.log_q, block.rows, block.sampling).accept_len == 4).all()
    result = rule(block.p, block.tokens, block.log_q, lambda index: torch.zeros(64, 16), block.sampling)
    assert (result.accept_len == 4).all()


@RULES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_log_q_no_token_can_have_is_rejected(rule, bad):
    block = drafted()
    block.log_q[:, 1] = bad
    result = block.verify(rule)
    assert (result.accept_len <= 1).all() and (result.accept_len == 1).any()


@RULES
def test_nan_leaves_legal_tokens(rule):
    block = drafted()
    block.p[:16] = torch.nan
    block.p[16:32, 2:] = torch.nan
    spoilt = block.rows
    result = rule(block.p, block.tokens, block.log_q, lambda index: spoilt(index) * torch.nan, block.sampling)
    assert ((result.bonus >= 0) & (result.bonus < 16)).all()
    assert (result.accept_len[:16] == 0).all() and (result.accept_len[16:32] <= 2).all()
    # What follows a rejected token may be anything: the healthy rows decide as if it were not there.
    whole = drafted()
    assert torch.equal(block.verify(rule).bonus[32:], whole.verify(rule).bonus[32:])


@RULES
def test_a_grammar_that_leaves_one_token(rule):
    block = drafted()
    forced = (block.tokens[:, :1] + 1) % 16
    block.p[:, 0] = torch.zeros(64, 16).scatter_(1, forced, 1.0)
    result = block.verify(rule)
    assert (result.accept_len == 0).all() and torch.equal(result.bonus, forced[:, 0])
    block.p[:, 0] = torch.zeros(64, 16).scatter_(1, block.tokens[:, :1], 1.0)
    assert (accept_sampled(block.p, block.tokens, block.log_q, block.rows, block.sampling).accept_len >= 1).all()
    assert (block.verify(rule).accept_len >= 1).float().mean() > 0.9


@RULES
def test_padded_vocabularies_change_nothing(rule):
    block = drafted()
    plain = block.verify(rule)
    wide_p = torch.nn.functional.pad(block.p, (0, 5))
    for q_row in (block.rows, lambda index: torch.nn.functional.pad(block.rows(index), (0, 9), value=0.3)):
        padded = rule(wide_p, block.tokens, block.log_q, q_row, block.sampling)
        if q_row is block.rows:
            assert torch.equal(padded.bonus, plain.bonus) and torch.equal(padded.accept_len, plain.accept_len)
        assert (padded.bonus < 16).all()


@RULES
def test_a_token_beyond_the_columns_of_p_is_rejected(rule):
    block = drafted()
    block.tokens[:, 2] = 40
    assert (block.verify(rule).accept_len <= 2).all()


@RULES
def test_greedy_requests_follow_the_argmax_even_on_ties(rule):
    """Top-k 1 keeps both tokens of a tie (probability 1/2 each); plain greedy decoding takes the lower id."""
    block = drafted(batch=400)
    block.p = torch.zeros_like(block.p)
    block.p[..., 5] = block.p[..., 9] = 0.5
    block.tokens = torch.full_like(block.tokens, 5)
    greedy = torch.arange(400) % 2 == 0
    predict = block.p.argmax(-1)
    wanted = accept_greedy(block.tokens, predict)
    for target_predict in (predict, None):
        result = block.verify(rule, target_greedy=greedy, target_predict=target_predict)
        assert torch.equal(result.accept_len[greedy], wanted.accept_len[greedy])
        assert (result.bonus[greedy] == 5).all() and (result.bonus[~greedy] == 9).any()


@RULES
def test_greedy_draft_and_greedy_target_need_no_special_case(rule):
    """Point masses on both sides: accepted where equal, else the target's token."""
    block = drafted(temperature=0.0)
    predict = block.p.argmax(-1)
    block.p = torch.nn.functional.one_hot(predict, 16).float()
    block.log_q.fill_(-5.0)
    result, wanted = block.verify(rule), accept_greedy(block.tokens, predict)
    assert torch.equal(result.accept_len, wanted.accept_len) and torch.equal(result.bonus, wanted.bonus)


@RULES
def test_rows_of_q_are_not_read_for_greedy_drafts(rule):
    block = drafted(temperature=0.0)
    healthy = block.verify(rule)
    garbage = rule(
        block.p, block.tokens, block.log_q * torch.nan, lambda index: torch.full((64, 16), torch.nan), block.sampling
    )
    assert torch.equal(healthy.accept_len, garbage.accept_len) and torch.equal(healthy.bonus, garbage.bonus)


@RULES
def test_inputs_stay_as_they_were(rule):
    block = drafted()
    before = [x.clone() for x in (block.p, block.tokens, block.log_q, block.rows.base_logits)]
    block.verify(rule)
    for x, y in zip(before, (block.p, block.tokens, block.log_q, block.rows.base_logits), strict=True):
        assert torch.equal(x, y)


@RULES
def test_an_empty_batch_is_legal(rule):
    block = drafted(batch=1)
    empty = DraftSampling(*(x[:0] for x in (block.sampling.temperature, block.sampling.seed, block.sampling.position)))
    result = rule(block.p[:0], block.tokens[:0], block.log_q[:0], lambda index: torch.zeros(0, 16), empty)
    assert result.accept_len.shape == (0,) and result.bonus.shape == (0,)


@RULES
def test_one_proposal(rule):
    block = drafted(proposals=1)
    result = block.verify(rule)
    assert set(result.accept_len.tolist()) == {0, 1}


@RULES
def test_nothing_waits_for_the_device(rule):
    """Fake tensors have no values: ``.item()``, ``bool(tensor)`` and boolean indexing would raise."""
    with torch._subclasses.FakeTensorMode():
        b, s, v = 3, 4, 16
        sampling = DraftSampling(torch.ones(b), torch.ones(b, dtype=torch.int64), torch.ones(b, dtype=torch.int64))
        tokens = torch.ones(b, s, dtype=torch.int64)
        draft = Draft(tokens, torch.ones(b, s), torch.ones(b, s), torch.ones(b, s, 2))
        rows = DraftRows(torch.ones(b, s, v), torch.ones(v, 2), draft, sampling)
        greedy = torch.ones(b, dtype=torch.bool)
        result = rule(torch.ones(b, s + 1, v), tokens, draft.log_q, rows, sampling, target_greedy=greedy)
        assert result.accept_len.shape == result.bonus.shape == (b,)


def test_block_and_token_wise_agree_on_a_single_proposal():
    block = drafted(batch=500, proposals=1)
    token_wise, block_wise = block.verify(accept_sampled), block.verify(accept_block)
    assert torch.equal(token_wise.accept_len, block_wise.accept_len)
    assert torch.equal(token_wise.bonus, block_wise.bonus)


def test_block_verification_gains_where_it_can():
    """The paper's example: p = (1/3, 2/3) and q = (2/3, 1/3), two proposals: 10/9 token-wise, 11/9 in a block."""
    n = 100_000
    p = torch.tensor([1 / 3, 2 / 3]).expand(n, 3, 2)
    base = torch.tensor([2 / 3, 1 / 3]).log().expand(n, 2, 2)
    sampling = DraftSampling(torch.ones(n), torch.arange(n), torch.zeros(n, dtype=torch.int64))
    tokens, log_q, lse = (
        torch.stack(x, 1) for x in zip(*(choose(base[:, j], j, sampling) for j in range(2)), strict=True)
    )
    rows = DraftRows(base, torch.zeros(2, 1), Draft(tokens, log_q, lse, torch.zeros(n, 2, 1)), sampling)
    mean = {
        rule: float(rule(p, tokens, log_q, rows, sampling).accept_len.float().mean())
        for rule in (accept_sampled, accept_block)
    }
    assert mean[accept_sampled] == pytest.approx(10 / 9, abs=0.012)
    assert mean[accept_block] == pytest.approx(11 / 9, abs=0.012)


def test_recomputed_rows_are_the_distribution_that_was_sampled():
    block = drafted(temperature=0.7)
    for j in range(4):
        row = block.rows(j)
        assert torch.allclose(row.sum(-1), torch.ones(64), atol=1e-5)
        assert torch.allclose(row.gather(1, block.tokens[:, j : j + 1])[:, 0].log(), block.log_q[:, j], atol=1e-6)
    index = torch.arange(64) % 4
    assert torch.equal(block.rows(index), torch.stack([block.rows(j) for j in range(4)], 1)[torch.arange(64), index])


def test_residual_is_what_it_says():
    block = drafted()
    index = torch.arange(64) % 5
    mass = residual(block.p, block.tokens, block.rows, block.sampling, index)
    for b in range(64):
        j = int(index[b])
        q = block.rows(j)[b] if j < 4 else torch.zeros(16)
        assert torch.allclose(mass[b], (block.p[b, j] - q).clamp(min=0), atol=1e-7)


def test_the_race_in_pieces_is_the_race(monkeypatch):
    block = drafted(batch=50, vocab=64, proposals=1)
    weights, index = block.p[:, 0], torch.zeros(50, dtype=torch.int64)
    whole = race(weights, block.sampling, index)
    monkeypatch.setattr("domino_sglang.core.verify.bonus.RACE_ELEMENTS", 50 * 7)
    assert torch.equal(race(weights, block.sampling, index), whole)
    key = counter_key(block.sampling.seed, block.sampling.position, index, STREAM_BONUS)
    noise = exponential((key[0][:, None], key[1][:, None]), torch.arange(64))
    assert torch.equal((weights.log() - noise.log()).argmax(-1), whole)
