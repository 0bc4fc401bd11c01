"""The certified scan finds what a scan of everything finds; the oracle is a stable sort of ``corrected_logits``."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domino_sglang.core import certified_scan
from domino_sglang.core.certified_scan import TILE, Scores, UpperBounds, best_tokens, shadow_of
from domino_sglang.core.head import DraftSampling, choose, corrected_logits, proposal_noise

NAN, INF = float("nan"), float("inf")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def decaying(vocab: int, rank: int, generator: torch.Generator, fall: float = 0.6) -> torch.Tensor:
    """Random rows of a falling spectrum in a random rotation, and one direction that all rows share."""
    rows = torch.randn(vocab, rank, generator=generator) * fall ** torch.arange(rank)
    rows[:, 0] += 3
    return rows @ torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]


def sorted_tokens(base: torch.Tensor, correction: torch.Tensor, w2: torch.Tensor, count: int) -> list[list[int]]:
    order = corrected_logits(base, correction, w2).sort(dim=1, descending=True, stable=True)
    return order.indices[:, :count].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize("vocab", [TILE - 1, 1000])
def test_the_best_tokens_are_a_full_scans(dtype, count, vocab):
    generator = torch.Generator().manual_seed(count)
    w2 = decaying(vocab, 32, generator).to(dtype)
    correction = torch.randn(20, 32, generator=generator).to(dtype)
    correction[3] = 0
    base = (4 * torch.randn(20, vocab, generator=generator)).to(dtype)
    shadow = shadow_of(w2)
    found = best_tokens(Scores(base, correction, w2), shadow, count)
    everything = best_tokens(Scores(base, correction, w2), None, count)
    assert torch.equal(found.tokens, everything.tokens) and torch.equal(found.scores, everything.scores)
    assert found.tokens.tolist() == sorted_tokens(base, correction, w2, count)
    if vocab == 1000 and count == 1:
        assert found.rescored.float().mean() < 0.3 and everything.rescored.all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_ties_touching_bounds_and_numbers_that_are_none(data):
    """Numbers of few digits, so that every order of summing is exact, scores meet often, and bounds touch."""
    rank = data.draw(st.integers(1, 6), label="rank")
    kept = data.draw(st.integers(1, rank), label="kept")
    vocab = data.draw(st.sampled_from([1, 5, TILE, TILE + 1, 3 * TILE - 5]), label="vocab")
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    seed = data.draw(st.integers(0, 2**20), label="seed")
    odd = data.draw(st.lists(st.sampled_from([NAN, INF, -INF, -0.0, 3e4, -3e4]), max_size=6), label="odd logits")
    strange = data.draw(st.sampled_from([None, NAN, INF, -INF]), label="odd correction")
    generator = torch.Generator().manual_seed(seed)
    distinct = data.draw(st.integers(1, vocab), label="distinct rows")
    w2 = torch.randint(-4, 5, (distinct, rank), generator=generator)[torch.arange(vocab) % distinct].to(dtype)
    correction = (torch.randint(-3, 4, (3, rank), generator=generator) / 4).to(dtype)
    correction[1] = 0
    base = (torch.randint(-2, 3, (3, vocab), generator=generator) / 2).to(dtype)
    if odd:
        base[:, torch.randint(vocab, (len(odd),), generator=generator)] = torch.tensor(odd, dtype=dtype)
    if data.draw(st.booleans(), label="all minus infinity"):
        base[2] = -INF
    if strange is not None:
        correction[0, 0] = strange
    count = data.draw(st.integers(1, min(4, vocab)), label="count")
    found = best_tokens(Scores(base, correction, w2), shadow_of(w2, kept), count)
    assert found.tokens.tolist() == sorted_tokens(base, correction, w2, count)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    exponent=st.floats(-44, 36),
    base_exponent=st.floats(-44, 36),
    seed=st.integers(0, 2**20),
    flat=st.booleans(),
)
def test_any_magnitude(exponent, base_exponent, seed, flat):
    generator = torch.Generator().manual_seed(seed)
    w2 = decaying(300, 8, generator, fall=1.0 if flat else 0.4)
    correction = torch.randn(4, 8, generator=generator) * 10.0**exponent
    base = torch.randn(4, 300, generator=generator) * 10.0**base_exponent
    scores = Scores(base, correction, w2)
    for kept in (1, 4, 8):
        found = best_tokens(scores, shadow_of(w2, kept), 3)
        assert torch.equal(found.tokens, best_tokens(scores, None, 3).tokens)


def rows_lost(trials: int) -> int:
    """How often the winner is missed where only rounding keeps its bound above a rival that scores the same.

    The winner lies wholly in what is cut, along the correction: its score is the Cauchy-Schwarz bound itself.
    """
    rank, kept, lost = 96, 4, 0
    for seed in range(trials):
        generator = torch.Generator().manual_seed(seed)
        w2 = torch.zeros(2 * TILE, rank)
        w2[TILE:, :kept] = 100 * torch.randn(TILE, kept, generator=generator)
        w2[0, kept:] = torch.randn(rank - kept, generator=generator)
        w2[TILE + 1] = 0
        scores = Scores(torch.full((1, 2 * TILE), -1e3), w2[:1].clone(), w2)
        scores.base_logits[0, 0] = 0
        scores.base_logits[0, TILE + 1] = scores.of(torch.tensor([0]), torch.tensor([0]))
        lost += int(best_tokens(scores, shadow_of(w2, kept)).tokens[0, 0] != 0)
    return lost


def test_without_slack_for_rounding_a_winner_is_missed(monkeypatch):
    assert rows_lost(150) == 0
    monkeypatch.setattr(certified_scan, "arithmetic_slack", lambda rank, kept: 0.0)
    assert rows_lost(150) > 0


def test_a_score_does_not_depend_on_what_else_is_asked():
    generator = torch.Generator().manual_seed(0)
    scores = Scores(torch.randn(3, 500), torch.randn(3, 70, generator=generator), torch.randn(500, 70))
    token = torch.arange(500)
    whole = scores.of(torch.full_like(token, 1), token)
    for some in ([7], [499, 3], list(range(17))):
        assert torch.equal(scores.of(torch.ones(len(some), dtype=torch.long), torch.tensor(some)), whole[some])


@pytest.mark.parametrize("dtype", DTYPES)
def test_shared_noise_is_a_part_of_the_score(dtype):
    generator = torch.Generator().manual_seed(4)
    w2, correction = decaying(700, 32, generator).to(dtype), torch.randn(5, 32, generator=generator).to(dtype)
    base = (3 * torch.randn(5, 700, generator=generator)).to(dtype)
    ids = torch.arange(5)
    sampling = DraftSampling(torch.tensor([0.5, 0.7, 1.0, 1.5, 2.0]), ids * 31, ids + 9)
    scores = Scores(base, correction, w2, sampling.temperature, proposal_noise(sampling, 2, 700))
    drawn, _, _ = choose(corrected_logits(base, correction, w2), 2, sampling)
    assert best_tokens(scores, shadow_of(w2)).tokens[:, 0].tolist() == drawn.tolist()


@pytest.mark.parametrize("edges", [(0, 90, 400), (0, 10, 11, 400)])
def test_ranks_that_hold_a_part_of_the_vocabulary(edges):
    generator = torch.Generator().manual_seed(2)
    w2, correction = decaying(400, 32, generator), torch.randn(6, 32, generator=generator)
    base = torch.randn(6, 400, generator=generator)
    parts = []
    for first, end in pairwise(edges):
        scores = Scores(base[:, first:end], correction, w2[first:end])
        best = best_tokens(scores, shadow_of(w2[first:end]))
        parts.append((best.scores, best.tokens + first))
    highest, tokens = (torch.cat(found, 1) for found in zip(*parts, strict=True))
    assert tokens.gather(1, highest.argmax(1, keepdim=True)).tolist() == sorted_tokens(base, correction, w2, 1)


def test_a_flat_spectrum_or_broken_weights_are_scanned_in_full():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(500, 32, generator=generator)
    assert shadow_of(flat) is None
    assert shadow_of(torch.randn(50, 3, generator=generator)) is None
    steep = decaying(500, 32, generator)
    assert shadow_of(steep).kept == 4
    steep[7, 3] = NAN
    assert shadow_of(steep) is None


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values=st.lists(st.floats(0, 1e30), min_size=1, max_size=20))
def test_bounds_in_a_byte_are_never_below(values):
    exact = torch.tensor(values, dtype=torch.float64)
    found = UpperBounds.of(exact).values.double()
    assert (found >= exact).all()
    assert (found <= exact * 2 ** (1 / 8) * (1 + 1e-6) + exact.max() * 1e-9 + 1e-44).all()


def test_all_zero_weights():
    w2 = torch.zeros(130, 8)
    base = torch.zeros(1, 130)
    base[0, 99] = 1
    assert best_tokens(Scores(base, torch.ones(1, 8), w2), shadow_of(w2, 4)).tokens.tolist() == [[99]]
