"""The committed tokens follow the target's distribution exactly, whatever the drafter proposes.

Each case decodes 200,000 or more short sequences by drafting and verifying until one token more than a block
proposes is committed, and holds their joint distribution against the product of the target's conditional
probabilities, by chi-square and by total variation.
Seeds are fixed, so a failure is a bug and not bad luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from scipy import stats

from domino_sglang.core.head import DominoHead, Draft, DraftSampling, choose, rollout
from domino_sglang.core.verify import DraftRows, accept_block, accept_sampled

DRAWS = 200_000
PART = 20_000
RULES = {"token-wise": accept_sampled, "block": accept_block}
# Fixed seeds make a p-value one number per case; the floor only has to lie far below what 60 honest draws reach.
P_VALUE_FLOOR = 1e-4


@dataclass(frozen=True)
class Case:
    """A Markov target ``p [V, V]`` and a drafter ``log_q [S, V, V]`` (position in the block, last token, next)."""

    p: torch.Tensor
    log_q: torch.Tensor
    temperature: float = 1.0
    greedy_every: int = 0
    """Every n-th request drafts greedily; 0 for none."""


def random_rows(generator, *shape, sharpness=1.5):
    return (torch.randn(*shape, generator=generator) * sharpness).softmax(-1)


def top_k(p, k):
    kept = p >= p.topk(k, dim=-1).values[..., -1:]
    return (p * kept) / (p * kept).sum(-1, keepdim=True)


def top_p(p, mass):
    value, order = p.sort(dim=-1, descending=True)
    value = value * (value.cumsum(-1) - value < mass)
    return torch.zeros_like(p).scatter(-1, order, value / value.sum(-1, keepdim=True))


def case_named(name: str) -> Case:
    g = torch.Generator().manual_seed(len(name))
    vocab = {"large vocabulary": 64, "top-k target": 16, "top-p target": 16}.get(name, 8)
    proposals = 2 if vocab > 8 else 3
    p = random_rows(g, vocab, vocab)
    q = random_rows(g, proposals, vocab, vocab)
    if name == "identical":
        return Case(p, p.log().expand(proposals, -1, -1))
    if name == "disjoint":
        p = p * (torch.arange(vocab) < vocab // 2)
        q = q * (torch.arange(vocab) >= vocab // 2)
        return Case(p / p.sum(-1, keepdim=True), (q / q.sum(-1, keepdim=True)).log())
    if name == "q zero where p is not":
        q = q * (torch.rand(q.shape, generator=g) < 0.5).index_fill(-1, torch.tensor([0]), True)
        return Case(p, (q / q.sum(-1, keepdim=True)).log())
    if name == "spikes of q":
        spike = torch.nn.functional.one_hot(torch.randint(vocab, q.shape[:-1], generator=g), vocab)
        return Case(p, (0.999 * spike + 0.001 * q).log())
    if name == "spikes of p":
        spike = torch.nn.functional.one_hot(torch.randint(vocab, p.shape[:-1], generator=g), vocab)
        return Case(0.97 * spike + 0.03 * p, q.log())
    if name == "q underflows":
        return Case(p, q.log() - 300.0 * (torch.rand(q.shape, generator=g) < 0.4))
    if name == "one-token rows":
        forced = torch.nn.functional.one_hot(torch.randint(vocab, (vocab,), generator=g), vocab).float()
        return Case(torch.where((torch.arange(vocab) % 2 == 0)[:, None], forced, p), q.log())
    if name == "nearly identical":
        return Case(p, (p.log() + 0.05 * torch.randn(q.shape, generator=g)).log_softmax(-1))
    if name == "top-k target":
        return Case(top_k(p, 5), (p.log() + 0.5 * torch.randn(q.shape, generator=g)).log_softmax(-1))
    if name == "top-p target":
        return Case(top_p(p, 0.9), (p.log() + 0.5 * torch.randn(q.shape, generator=g)).log_softmax(-1))
    if name == "temperature":
        return Case(p, q.log(), temperature=0.6)
    if name == "greedy drafts among sampled":
        return Case(p, (p.log() + 0.5 * torch.randn(q.shape, generator=g)).log_softmax(-1), greedy_every=2)
    if name == "greedy drafts":
        return Case(p, q.log(), greedy_every=1)
    assert name == "large vocabulary"
    return Case(random_rows(g, vocab, vocab, sharpness=2.0), q.log())


CASES = [
    "identical",
    "disjoint",
    "q zero where p is not",
    "spikes of q",
    "spikes of p",
    "q underflows",
    "one-token rows",
    "nearly identical",
    "top-k target",
    "top-p target",
    "temperature",
    "greedy drafts among sampled",
    "greedy drafts",
    "large vocabulary",
]


def draft_from_tables(case: Case, bonus: torch.Tensor, sampling: DraftSampling) -> tuple[torch.Tensor, Draft]:
    """Proposals drawn by the head's own sampler from the case's tables, and their base logits ``[B, S, V]``."""
    tokens, log_q, logsumexp, rows = [], [], [], []
    previous = bonus
    for j in range(case.log_q.shape[0]):
        rows.append(case.log_q[j, previous])
        for column, value in zip((tokens, log_q, logsumexp), choose(rows[-1], j, sampling), strict=True):
            column.append(value)
        previous = tokens[-1]
    correction = torch.zeros(len(bonus), len(rows), 1)
    draft = Draft(torch.stack(tokens, 1), torch.stack(log_q, 1), torch.stack(logsumexp, 1), correction)
    return torch.stack(rows, 1), draft


def decode(p, propose, rule, *, temperature, length):
    """Decode DRAWS sequences of ``length`` tokens: int64 ``[DRAWS, length]`` and the mean accepted proposals.

    ``propose(bonus, sampling)`` gives base logits, a draft and W2. All sequences start from the token 0.
    """
    seed = torch.arange(DRAWS) * 7919 + 1
    # In parts that fit the cache, which is twice as fast.
    parts = zip(seed.split(PART), temperature.split(PART), strict=True)
    tokens, accepted = zip(*(decode_part(p, propose, rule, *part, length) for part in parts), strict=True)
    return torch.cat(tokens), sum(accepted) / len(accepted)


def decode_part(p, propose, rule, seed, temperature, length):
    draws = len(seed)
    out = torch.zeros(draws, length + 8, dtype=torch.int64)
    done = torch.zeros(draws, dtype=torch.int64)
    bonus = torch.zeros(draws, dtype=torch.int64)
    accepted = []
    while len(live := torch.nonzero(done < length)[:, 0]):
        sampling = DraftSampling(temperature[live], seed[live], done[live] + 5)
        base_logits, draft, w2 = propose(bonus[live], sampling)
        context = torch.cat([bonus[live, None], draft.tokens], 1)
        result = rule(p[context], draft.tokens, draft.log_q, DraftRows(base_logits, w2, draft, sampling), sampling)
        accepted.append(result.accept_len.float().mean())
        column = torch.arange(draft.tokens.shape[1] + 1)
        committed = torch.cat([draft.tokens, result.bonus[:, None]], 1)
        committed.scatter_(1, result.accept_len[:, None].long(), result.bonus[:, None])
        # What lies behind the bonus token is overwritten by the next step, or cut off at the end.
        out[live[:, None], done[live, None] + column] = committed
        done[live] += result.commit_len
        bonus[live] = result.bonus
    return out[:, :length], float(accepted[0])


def assert_follows(tokens: torch.Tensor, p: torch.Tensor) -> None:
    """Sequences ``[N, L]`` against the chain ``p [V, V]`` started at token 0: joint, of the first tokens, as
    many as 200,000 draws can tell apart, and of each pair of neighbours after them."""
    vocab, length = p.shape[0], tokens.shape[1]
    p = p.double() / p.double().sum(-1, keepdim=True)
    head = min(length, 3 if vocab <= 16 else 2)
    distribution, cell = p[0], tokens[:, 0]
    for j in range(1, head):
        distribution = (distribution[:, None] * p.repeat(len(distribution) // vocab, 1)).flatten()
        cell = cell * vocab + tokens[:, j]
    assert_distribution(cell, distribution)
    start = p[0]
    for j in range(1, length):
        if j + 1 > head:
            assert_distribution(tokens[:, j - 1] * vocab + tokens[:, j], (start[:, None] * p).flatten())
        start = start @ p


def assert_distribution(cell: torch.Tensor, distribution: torch.Tensor) -> None:
    """Chi-square and total variation of draws ``cell [N]`` against ``distribution``."""
    draws = len(cell)
    count = torch.bincount(cell, minlength=len(distribution)).double()
    expected = distribution * draws
    assert count[distribution == 0].sum() == 0, "a token the target cannot produce was committed"
    common = expected >= 10
    observed = torch.cat([count[common], count[~common].sum()[None]]).numpy()
    wanted = torch.cat([expected[common], expected[~common].sum()[None]]).numpy()
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    if len(wanted) > 1:
        chi_square = ((observed - wanted) ** 2 / wanted).sum()
        assert stats.chi2.sf(chi_square, len(wanted) - 1) > P_VALUE_FLOOR
    variation = float((count - expected).abs().sum() / 2 / draws)
    by_chance = float((2 * distribution * (1 - distribution) / torch.pi / draws).sqrt().sum() / 2)
    assert variation <= 1.25 * by_chance + 1e-3, f"total variation {variation:.5f}, by chance {by_chance:.5f}"


def run_case(case: Case, rule):
    temperature = torch.full((DRAWS,), case.temperature)
    if case.greedy_every:
        temperature[:: case.greedy_every] = 0.0
    w2 = torch.zeros(case.p.shape[0], 1)
    # One more than the block proposes, so that the bonus token of a full acceptance is seen as well.
    length = case.log_q.shape[0] + 1
    propose = lambda bonus, sampling: (*draft_from_tables(case, bonus, sampling), w2)  # noqa: E731
    return decode(case.p, propose, rule, temperature=temperature, length=length)


@pytest.mark.parametrize("name", CASES)
def test_sequences_follow_the_target(name):
    case = case_named(name)
    accepted = {}
    for label, rule in RULES.items():
        tokens, accepted[label] = run_case(case, rule)
        assert_follows(tokens, case.p)
    assert accepted["block"] >= accepted["token-wise"] - 3e-3
    if name == "identical":
        assert accepted["token-wise"] > 2.999
    if name == "disjoint":
        assert accepted == {"token-wise": 0.0, "block": 0.0}
    if name in ("large vocabulary", "temperature"):
        assert accepted["block"] > accepted["token-wise"] + 0.01, "block verification should gain here"


def test_first_acceptance_is_the_overlap():
    """P(accept x_1) is ``sum_v min(p, q)`` token-wise (arXiv 2211.17192, theorem 3.5)."""
    case = case_named("q zero where p is not")
    sampling = DraftSampling(torch.ones(DRAWS), torch.arange(DRAWS), torch.zeros(DRAWS, dtype=torch.int64))
    base, draft = draft_from_tables(case, torch.zeros(DRAWS, dtype=torch.int64), sampling)
    context = torch.cat([torch.zeros(DRAWS, 1, dtype=torch.int64), draft.tokens], 1)
    rows = DraftRows(base, torch.zeros(8, 1), draft, sampling)
    result = accept_sampled(case.p[context], draft.tokens, draft.log_q, rows, sampling)
    overlap = float(torch.minimum(case.p[0], case.log_q[0, 0].exp()).sum())
    assert float((result.accept_len > 0).float().mean()) == pytest.approx(overlap, abs=4e-3)


@pytest.mark.parametrize("rule", RULES)
def test_one_seed_over_many_positions_is_as_good_as_many_seeds(rule):
    """A request keeps its seed for the whole text: the position alone must make the draws independent."""
    case = case_named("nearly identical")
    sampling = DraftSampling(torch.ones(DRAWS), torch.full((DRAWS,), 42), torch.arange(DRAWS))
    base, draft = draft_from_tables(case, torch.zeros(DRAWS, dtype=torch.int64), sampling)
    context = torch.cat([torch.zeros(DRAWS, 1, dtype=torch.int64), draft.tokens], 1)
    rows = DraftRows(base, torch.zeros(8, 1), draft, sampling)
    result = RULES[rule](case.p[context], draft.tokens, draft.log_q, rows, sampling)
    first = torch.where(result.accept_len > 0, draft.tokens[:, 0], result.bonus)
    assert_follows(first[:, None], case.p)


@pytest.mark.parametrize("rule", RULES)
def test_without_proposals_the_token_is_the_targets(rule):
    """Plain decoding as a block without proposals, greedy requests among the others."""
    p = case_named("large vocabulary").p
    last = torch.arange(DRAWS) % len(p)
    nothing = torch.empty(DRAWS, 0)
    sampling = DraftSampling(torch.ones(DRAWS), torch.arange(DRAWS), torch.full((DRAWS,), 5))
    greedy = torch.arange(DRAWS) % 2 == 0
    result = RULES[rule](p[last][:, None], nothing.long(), nothing, None, sampling, target_greedy=greedy)
    assert (result.accept_len == 0).all()
    assert torch.equal(result.bonus[greedy], p[last[greedy]].argmax(-1))
    for token in (1, 3):
        assert_distribution(result.bonus[last == token], p[token].double() / p[token].double().sum())


@pytest.mark.parametrize("pure_draft_prefix_len", [0, 1])
@pytest.mark.parametrize("rule", RULES)
def test_the_real_head_drafts_and_the_target_law_remains(rule, pure_draft_prefix_len):
    """Rollout, recomputed rows of q and verification together, with weights that make the correction matter."""
    torch.manual_seed(3)
    vocab, hidden, proposals = 8, 6, 3
    head = DominoHead(hidden_size=hidden, vocab_size=vocab, gru_hidden_dim=5, emb_dim=4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    weights = head.weights()
    embedding, z_table = torch.randn(vocab, hidden), torch.randn(vocab, proposals, hidden)
    lm_head = torch.randn(vocab, hidden) * 0.5
    p = random_rows(torch.Generator().manual_seed(1), vocab, vocab)

    @torch.no_grad()
    def propose(bonus, sampling):
        z = z_table[bonus]
        base = z @ lm_head.T
        draft = rollout(
            weights,
            z=z,
            base_logits=base,
            bonus_tokens=bonus,
            embedding=embedding,
            pure_draft_prefix_len=pure_draft_prefix_len,
            sampling=sampling,
        )
        return base, draft, weights.w2.detach()

    temperature = torch.full((DRAWS,), 0.8)
    temperature[::5] = 0.0
    tokens, accepted = decode(p, propose, RULES[rule], temperature=temperature, length=proposals + 1)
    assert_follows(tokens, p)
    assert 0.05 < accepted < 2.9
