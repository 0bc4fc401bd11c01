"""Acceptance counters by position."""

from __future__ import annotations

from array import array

import pytest
from prometheus_client import REGISTRY
from sglang.srt.managers.schedule_batch import Req
from sglang.srt.sampling.sampling_params import SamplingParams

from domino_sglang.serving.observe.metrics import PositionCounters


@pytest.fixture
def counters():
    made = PositionCounters("a-model", 3)
    yield made
    for collector in {id(c): c for c in REGISTRY._names_to_collectors.values()}.values():
        if getattr(collector, "_name", "").startswith("domino:"):
            REGISTRY.unregister(collector)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model_name": "a-model"} | labels)


def test_positions_are_counted_from_the_first(counters):
    for accepted in (0, 2, 3, 1):
        counters.observe(accepted)
    assert value("domino:verify_steps_total") == 4
    assert [value("domino:accepted_proposals_total", position=str(j)) for j in (1, 2, 3)] == [3, 2, 1]


def test_positions_start_at_zero(counters):
    # A dashboard must see every series before anything was accepted.
    assert [value("domino:accepted_proposals_total", position=str(j)) for j in (1, 2, 3)] == [0, 0, 0]


def settle(counters: PositionCounters, steps: list[list[int]], **sampling) -> Req:
    """A request of SGLang's, its steps settled as the scheduler settles them, behind a prefill's token."""
    params = SamplingParams(**{"max_new_tokens": 100} | sampling)
    params.normalize(None)
    req = Req("r", "", array("q", [1, 2]), params, vocab_size=50)
    req.output_ids.append(7)
    req.update_finish_state(1)
    counters.settled(req, 1)
    for tokens in steps:
        counters.verified(None, req, len(tokens) - 1)
        req.output_ids.extend(tokens)
        req.update_finish_state(len(tokens))
        counters.settled(req, len(tokens))
    return req


@pytest.mark.parametrize(
    ("sampling", "accepted"),
    [({}, 1 + 3), ({"max_new_tokens": 5}, 1 + 1), ({"stop_token_ids": [9]}, 1 + 2), ({"max_new_tokens": 4}, 1 + 0)],
    ids=["uncut", "cut by length", "cut by a stop", "one token left"],
)
def test_proposals_behind_the_end_are_not_counted(counters, sampling, accepted):
    req = settle(counters, [[3, 4], [5, 6, 9, 8]], **sampling)
    steps = value("domino:verify_steps_total")
    assert steps == 2, "the prefill's token is no verify step"
    assert sum(value("domino:accepted_proposals_total", position=str(j)) for j in (1, 2, 3)) == accepted
    # Tokens a step as the metrics say, and as the client got them.
    assert 1 + accepted / steps == (len(req.output_ids_through_stop) - 1) / steps
