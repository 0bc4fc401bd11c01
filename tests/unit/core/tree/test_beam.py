"""Drafting a tree against a search that keeps every path in Python, with the head applied one path at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from domino_sglang.core.head import DominoHead, VocabShard, gru_step, rollout
from domino_sglang.core.shared_noise import SharedNoise, gumbel
from domino_sglang.core.tree import Candidates, draft_tree
from tests.support.trees import path_of

B, S, H, V, G, R = 3, 4, 12, 23, 8, 5


@pytest.fixture(scope="module")
def case() -> dict:
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(5)
    head = DominoHead(hidden_size=H, vocab_size=V, gru_hidden_dim=G, emb_dim=R, gru_bias=True)
    weights = head.weights()
    for weight in (weights.w1, weights.w2):
        weight.data.mul_(4)
    return {
        "weights": weights,
        "z": torch.randn(B, S, H, generator=generator),
        "base_logits": 2 * torch.randn(B, S, V, generator=generator),
        "bonus_tokens": torch.randint(V, (B,), generator=generator),
        "embedding": torch.randn(V, H, generator=generator),
        "pure_draft_prefix_len": 1,
    }


def log_p(case: dict, request: int, path: tuple[int, ...], noise: SharedNoise | None, head: bool = True):
    """The ranking distribution behind a path of tokens, all by hand."""
    weights, embedding, j = case["weights"], case["embedding"], len(path)
    state = torch.zeros(1, G)
    for token in (int(case["bonus_tokens"][request]), *path):
        state = gru_step(weights, embedding[token][None], state)
    logits = case["base_logits"][request, j]
    if head and j >= case["pure_draft_prefix_len"]:
        logits = logits + weights.w2 @ F.silu(weights.w1 @ torch.cat([case["z"][request, j], state[0]]))
    if noise is not None:
        g = gumbel(noise.seed[request], noise.position[request] + j, torch.arange(V))
        logits = logits + noise.temperature[request] * g
    return logits.double().log_softmax(-1)


def searched(case: dict, request: int, beam: int, children: int, depth: int, noise=None, head=True) -> dict:
    """Path -> score of every candidate."""
    paths, found = {(): 0.0}, {}
    for _ in range(depth):
        level = {}
        for path, score in paths.items():
            best = log_p(case, request, path, noise, head).topk(children)
            for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                level[(*path, token)] = score + value
        found |= level
        paths = dict(sorted(level.items(), key=lambda item: -item[1])[:beam])
    return found


SHAPES = [(1, 1, 4), (1, 3, 4), (2, 2, 3), (4, 3, 4), (5, 2, 2), (2, V, 1)]
NOISE = SharedNoise(torch.tensor([0.0, 1.0, 0.6]), torch.tensor([1, 2, 3]), torch.tensor([7, 8, 9]))


@pytest.mark.parametrize("noise", [None, NOISE], ids=["greedy", "mixed"])
@pytest.mark.parametrize(("beam", "children", "depth"), SHAPES)
@torch.inference_mode()
def test_candidates_are_those_of_a_search(case, beam, children, depth, noise):
    drafted = draft_tree(**case, beam=beam, children=children, depth=depth, noise=noise)
    for request in range(B):
        expected = searched(case, request, beam, children, depth, noise)
        paths = [path_of(drafted, request, node) for node in range(drafted.number)]
        assert set(paths) == set(expected) and len(set(paths)) == len(paths)
        for node, path in enumerate(paths):
            assert int(drafted.depth[node]) == len(path)
            assert float(drafted.score[request, node]) == pytest.approx(expected[path], abs=1e-4)
            parent = int(drafted.parent[request, node])
            assert parent < node
            assert parent < 0 or drafted.score[request, node] <= drafted.score[request, parent]


@torch.inference_mode()
def test_a_chain_is_the_heads_greedy_draft(case):
    chain = draft_tree(**case, beam=1, children=1)
    assert torch.equal(chain.tokens, rollout(**case).tokens)
    assert chain.parent.tolist() == [[-1, 0, 1, 2]] * B


@torch.inference_mode()
def test_without_the_head_base_logits_rank(case):
    drafted = draft_tree(**case, beam=2, children=2, head=False)
    paths = {path_of(drafted, 0, node) for node in range(drafted.number)}
    assert paths == set(searched(case, 0, 2, 2, S, head=False))


@torch.inference_mode()
def test_shards_of_the_vocabulary_draft_the_whole_ones_tree(case):
    whole = draft_tree(**case, beam=3, children=3, noise=NOISE)
    first = 11
    said: list[torch.Tensor] = [torch.empty(0)] * 2
    turn = threading.Barrier(2)

    def draft(rank: int) -> Candidates:
        def all_gather(mine: torch.Tensor) -> torch.Tensor:
            said[rank] = mine
            turn.wait()
            both = torch.stack(said)
            turn.wait()
            return both

        columns = slice(first, V) if rank else slice(0, first)
        weights = replace(case["weights"], w2=case["weights"].w2[columns])
        mine = {**case, "weights": weights, "base_logits": case["base_logits"][..., columns]}
        return draft_tree(**mine, beam=3, children=3, noise=NOISE, shard=VocabShard(columns.start, all_gather))

    with ThreadPoolExecutor(2) as pool:
        for drafted in pool.map(draft, (0, 1)):
            assert torch.equal(drafted.tokens, whole.tokens) and torch.equal(drafted.parent, whole.parent)
            torch.testing.assert_close(drafted.score, whole.score)
