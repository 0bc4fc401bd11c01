"""Acceptance counters by position."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

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
