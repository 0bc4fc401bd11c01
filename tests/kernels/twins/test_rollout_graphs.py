"""CUDA graphs: capture once, replay with changing inputs. Only a GPU can run these."""

from __future__ import annotations

import pytest
import torch
from rollout_cases import check, make_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU"),
]


def captured(case):
    rollout = case.built()
    for _ in range(2):
        got = rollout(case.z, case.base, case.bonus, case.sampling)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = rollout(case.z, case.base, case.bonus, case.sampling)
    return graph, got, rollout


@pytest.mark.parametrize("variant", ["fused", "persistent"])
@pytest.mark.parametrize("batch", [1, 2, 3, 16, 33])
@pytest.mark.parametrize("sampled", [False, True])
def test_replay_with_changing_inputs(variant, batch, sampled):
    sizes = dict(batch=batch, hidden=256, vocab=5003, units=64, rank=32, proposals=6, device="cuda")
    case = make_case(variant=variant, sampled=sampled, **sizes)
    graph, got, _ = captured(case)
    for seed in range(1, 6):
        fresh = make_case(sampled=sampled, seed=seed, **sizes)
        case.z.copy_(fresh.z)
        case.base.copy_(fresh.base)
        case.bonus.copy_(fresh.bonus)
        if sampled:
            for mine, new in zip(vars(case.sampling).values(), vars(fresh.sampling).values(), strict=True):
                mine.copy_(new)
        got.tokens.fill_(-1)
        for output in (got.log_q, got.logsumexp, got.correction):
            output.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        check(case, got)


@pytest.mark.parametrize("variant", ["fused", "persistent"])
@pytest.mark.parametrize("batch", [1, 8])
def test_a_thousand_replays_agree(variant, batch):
    case = make_case(
        variant=variant, batch=batch, hidden=256, vocab=20011, units=128, rank=64, proposals=15, device="cuda"
    )
    graph, got, _ = captured(case)
    graph.replay()
    first = [t.clone() for t in (got.tokens, got.log_q, got.logsumexp, got.correction)]
    for _ in range(1000):
        graph.replay()
        for now, then in zip((got.tokens, got.log_q, got.logsumexp, got.correction), first, strict=True):
            assert torch.equal(now, then)


@pytest.mark.parametrize("variant", ["fused", "persistent"])
def test_a_call_allocates_nothing(variant):
    case = make_case(variant=variant, device="cuda")
    rollout = case.built()
    rollout(case.z, case.base, case.bonus)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    rollout(case.z, case.base, case.bonus)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.parametrize("variant", ["fused", "persistent"])
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_the_shapes_of_qwen3_8b(variant, batch):
    case = make_case(
        variant=variant, batch=batch, hidden=4096, vocab=151936, units=1024, rank=256, proposals=15,
        dtype=torch.bfloat16, sampled=True, device="cuda",
    )  # fmt: skip
    check(case)
