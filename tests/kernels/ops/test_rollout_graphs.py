"""Captured once and replayed with changing inputs: in a CUDA graph on a GPU, in a recording of one elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rollout_cases import check, make_case

from tests.support.recording import Recording, record_kernels

BATCHES = [1, 2, 3, 16, 33] if torch.cuda.is_available() else [1, 3, 33]


def sizes(device: str, **changes: int) -> dict[str, Any]:
    large = dict(hidden=256, vocab=20011, units=128, rank=64, proposals=15)
    small = dict(hidden=24, vocab=301, units=12, rank=8, proposals=3)
    return (large if device == "cuda" else small) | changes | {"device": device}


def captured(case, device: str) -> tuple[Callable[[], None], Any]:
    """A function that replays, and where the replay leaves the proposals.

    The function keeps the rollout alive: a graph writes into its buffers, whoever else has been given their memory.
    """
    rollout = case.built()

    def call():
        return rollout(case.z, case.base, case.bonus, case.sampling)

    for _ in range(2):
        call()
    if device == "cpu":
        record_kernels()
        with Recording() as recording:
            got = call()
        return recording.replay, got
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call()

    def replay(held=rollout) -> None:
        graph.replay()

    return replay, got


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("sampled", [False, True])
def test_replay_with_changing_inputs(batch, sampled, device):
    shape = sizes(device, batch=batch)
    case = make_case(sampled=sampled, **shape)
    replay, got = captured(case, device)
    for seed in range(1, 6 if device == "cuda" else 2):
        fresh = make_case(sampled=sampled, seed=seed, **shape)
        case.z.copy_(fresh.z)
        case.base.copy_(fresh.base)
        case.bonus.copy_(fresh.bonus)
        if sampled:
            for mine, new in zip(vars(case.sampling).values(), vars(fresh.sampling).values(), strict=True):
                mine.copy_(new)
        got.tokens.fill_(-1)
        for output in (got.log_q, got.logsumexp, got.correction):
            output.fill_(float("nan"))
        replay()
        check(case, got)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_thousand_replays_agree(batch, device):
    case = make_case(**sizes(device, batch=batch))
    replay, got = captured(case, device)
    replay()
    first = [t.clone() for t in (got.tokens, got.log_q, got.logsumexp, got.correction)]
    for _ in range(1000 if device == "cuda" else 3):
        replay()
        for now, then in zip((got.tokens, got.log_q, got.logsumexp, got.correction), first, strict=True):
            assert torch.equal(now, then)


def test_a_call_allocates_nothing(device):
    case = make_case(device=device)
    rollout = case.built()
    rollout(case.z, case.base, case.bonus)
    if device == "cpu":
        record_kernels()
        with Recording() as recording:
            rollout(case.z, case.base, case.bonus)
        assert recording.allocations == 0 and recording.steps
        return
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    rollout(case.z, case.base, case.bonus)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
