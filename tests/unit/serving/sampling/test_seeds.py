"""Seeds: a request's own wherever it stands, fresh ones alike on every rank, and draws that follow the distribution."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo

from domino_sglang.serving.sampling.seeds import SeedSource, draw_with_seed, seeded_rows


def request(seed: int | None, top_k: int = 50) -> SimpleNamespace:
    return SimpleNamespace(sampling_params=SimpleNamespace(sampling_seed=seed, top_k=top_k))


def test_a_named_seed_is_used_wherever_the_request_stands():
    source = SeedSource(1, "cpu")
    assert source.draw([request(None), request(77), request(None)])[1] == 77
    assert source.draw([request(77)])[0] == 77


def test_unnamed_seeds_differ_between_requests_and_steps():
    source = SeedSource(1, "cpu")
    drawn = torch.cat([source.draw([request(None)] * 4) for _ in range(50)])
    assert len(drawn.unique()) == 200


def test_unnamed_seeds_are_sglangs_under_deterministic_inference():
    source = SeedSource(1, "cpu", deterministic=True)
    for _step in range(2):
        assert source.draw([request(None), request(77), request(None)]).tolist() == [42, 77, 42]
    assert "else 42" in inspect.getsource(SamplingBatchInfo.from_schedule_batch)


def test_ranks_that_start_alike_draw_alike():
    first, second = SeedSource(5, "cpu"), SeedSource(5, "cpu")
    for batch in ([request(None)] * 3, [request(9), request(None)], [request(None)] * 8):
        assert first.draw(batch).equal(second.draw(batch))


def test_seeded_rows_leaves_greedy_requests_out():
    assert seeded_rows([request(None), request(4), request(4, top_k=1), request(0)]) == [1, 3]


@pytest.mark.parametrize("by", ["seed", "position"])
def test_draws_follow_the_distribution(by):
    distribution = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03])
    number = 60_000
    count = torch.arange(number)
    fixed = torch.full((number,), 12)
    seed, position = (count, fixed) if by == "seed" else (fixed, count)
    drawn = draw_with_seed(distribution.expand(number, -1), seed, position)
    assert chisquare(drawn.bincount(minlength=5).numpy(), (distribution * number).double().numpy()).pvalue > 1e-5


def test_a_draw_repeats_and_ignores_the_rest_of_the_batch():
    probs = torch.rand(6, 30, generator=torch.Generator().manual_seed(0)).softmax(-1)
    seed, position = torch.arange(6) * 3, torch.arange(6) + 100
    together = draw_with_seed(probs, seed, position)
    alone = torch.cat([draw_with_seed(probs[i : i + 1], seed[i : i + 1], position[i : i + 1]) for i in range(6)])
    assert together.equal(alone)


def test_tokens_without_probability_are_never_drawn():
    probs = torch.zeros(5000, 8)
    probs[:, 3] = 1.0
    assert (draw_with_seed(probs, torch.arange(5000), torch.zeros(5000, dtype=torch.int64)) == 3).all()
