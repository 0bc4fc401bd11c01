"""Tensor parallelism, simulated: ranks that scan their rows of the vocabulary draft what one rank drafts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rollout_cases import check, make_case

from domino_kernels import VocabShard


class Waiting(Exception):
    """A rank has come to an exchange that another has not reached."""


class Lockstep:
    """An all-gather without processes: ranks run in turn, from the start, as far as the others' data reach."""

    def __init__(self, world: int):
        self.world = world
        self.exchanged: list[dict[int, torch.Tensor]] = []

    def run(self, rank_step):
        for _ in range(1000):
            done = [self._attempt(rank, rank_step) for rank in range(self.world)]
            if all(result is not None for result in done):
                return done
        raise AssertionError("the ranks do not make the same exchanges")

    def _attempt(self, rank, rank_step):
        calls = iter(range(1000))

        def all_gather(mine: torch.Tensor) -> torch.Tensor:
            assert mine.is_contiguous()
            call = next(calls)
            if call == len(self.exchanged):
                self.exchanged.append({})
            self.exchanged[call][rank] = mine.clone()
            if len(self.exchanged[call]) < self.world:
                raise Waiting
            return torch.stack([self.exchanged[call][r] for r in range(self.world)])

        try:
            return rank_step(rank, all_gather)
        except Waiting:
            return None


@pytest.mark.parametrize(
    ("batch", "prefix", "world", "sampled", "lookup"),
    [
        (1, 1, 2, False, "table"),
        (4, 2, 2, True, "callable"),
        (3, 0, 3, False, "callable"),
        (3, 0, 2, True, "table"),
        (2, 3, 2, False, "callable"),
    ],
)
def test_ranks_together_draft_what_one_drafts(device, batch, prefix, world, sampled, lookup):
    case = make_case(batch=batch, prefix=prefix, sampled=sampled, vocab=203, proposals=3, device=device)
    edges = [0, 90, 203] if world == 2 else [0, 10, 150, 203]
    if not sampled:
        # A tie across ranks, and a NaN that only one rank sees.
        case.base[:, 0, [40, 150]] = 30.0
        case.base[0, 1, 120] = float("nan")

    def rank_step(rank, all_gather):
        rows = slice(edges[rank], edges[rank + 1])
        weights = replace(case.weights, w2=case.weights.w2[rows])
        embedding = case.embedding if lookup == "table" else lambda tokens: case.embedding[tokens]
        part = case.with_(weights=weights, base=case.base[:, :, rows])
        return part.run(embedding=embedding, shard=VocabShard(edges[rank], all_gather))

    lockstep = Lockstep(world)
    for got in lockstep.run(rank_step):
        check(case, got)
    corrected = case.z.shape[1] - prefix
    assert len(lockstep.exchanged) == corrected + (prefix > 0) + 1
