"""The policy with backoff against SGLang's own, on made-up acceptances."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from sglang.srt.speculative.adaptive_spec_params import AdaptiveSpeculativeParams

from domino_sglang.serving.adaptive.backoff import LONGEST, BackoffParams

INTERVAL = 5


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"1": {"candidate_steps": [0, 3]}, "4": {"candidate_steps": [0, 1]}}))
    return str(file)


def drafted(policy, accepted: Callable[[int], int], steps: int, batch: int = 8) -> list[bool]:
    """Whether each step of a batch drafts, when ``accepted(step)`` of its proposals are right."""
    found = []
    for step in range(steps):
        proposals = policy.get_steps_for_batch(batch)
        found.append(proposals > 0)
        policy.on_verify_complete([min(proposals, accepted(step))] * batch, batch)
    return found


def test_where_drafting_never_pays_it_is_hardly_tried(table):
    upstream, ours = (drafted(kind(3, table), lambda _: 0, 2000) for kind in (AdaptiveSpeculativeParams, BackoffParams))
    assert sum(upstream) / 2000 == pytest.approx(0.5, abs=0.02)
    assert sum(ours) / 2000 < 0.06


def rests(steps: list[bool]) -> list[int]:
    """Lengths of the rests, in intervals of SGLang's policy."""
    return [len(rest) // INTERVAL for rest in "".join("d" if step else "r" for step in steps).split("d") if rest]


def test_every_rest_is_twice_the_one_before_up_to_the_longest(table):
    found = drafted(BackoffParams(3, table), lambda _: 0, 3000)
    assert rests(found)[:8] == [1, 2, 4, 8, 16, LONGEST, LONGEST, LONGEST]


def test_where_drafting_pays_nothing_differs(table):
    assert all(drafted(BackoffParams(3, table), lambda _: 1, 500))


def test_drafting_comes_back_when_it_pays_again_and_is_forgiven(table):
    policy = BackoffParams(3, table)
    assert not drafted(policy, lambda _: 0, 600)[-1]
    later = drafted(policy, lambda _: 1, (LONGEST + 2) * INTERVAL)
    assert later[-1], "one longest rest and one probe later it drafts"
    assert rests(drafted(policy, lambda _: 0, 40))[0] == 1, "the first rest is short again"


def test_entries_back_off_on_their_own(table):
    policy = BackoffParams(3, table)
    drafted(policy, lambda _: 0, 600)
    assert all(drafted(policy, lambda _: 3, 50, batch=2))
    later = rests(drafted(policy, lambda _: 0, 800))
    assert later[1:-1] and set(later[1:-1]) == {LONGEST}, "what pays in small batches forgives nothing in large ones"
