"""Selection against sorting in Python: the likeliest nodes of the batch, closed under parents, packed as they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domino_sglang.core.tree import Candidates, select
from tests.support.trees import likeliest, path_of, random_candidates


@settings(max_examples=150, deadline=None)
@given(
    batch=st.integers(1, 5),
    depth=st.integers(1, 4),
    beam=st.integers(1, 3),
    children=st.integers(1, 4),
    most=st.none() | st.integers(1, 12),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_the_likeliest_nodes_of_the_batch_are_kept(batch, depth, beam, children, most, seed, data):
    candidates = random_candidates(batch, depth, beam, children, vocab=6, seed=seed)
    largest = batch * (min(candidates.number, candidates.number if most is None else most - 1) + 1)
    total = data.draw(st.integers(batch, largest))
    roots = torch.arange(100, 100 + batch)
    tree = select(candidates, roots, total, most)
    kept = likeliest(candidates, total, most)

    assert tree.total == total == int(tree.counts.sum())
    assert tree.counts.tolist() == [len(nodes) + 1 for nodes in kept]
    assert tree.start.tolist() == [0, *tree.counts.cumsum(0).tolist()[:-1]]
    assert tree.tokens[tree.start].tolist() == roots.tolist()
    for row in range(total):
        request, parent = int(tree.request[row]), int(tree.parent[row])
        start = int(tree.start[request])
        assert start <= row < start + int(tree.counts[request])
        if row == start:
            assert parent == row and int(tree.depth[row]) == 0 and float(tree.score[row]) == 0
        else:
            assert start <= parent < row, "a parent stands before its child, in the same request's rows"
            assert int(tree.depth[row]) == int(tree.depth[parent]) + 1
    for request, nodes in enumerate(kept):
        rows = range(int(tree.start[request]) + 1, int(tree.start[request]) + int(tree.counts[request]))
        packed = {tuple(tree.tokens[up_to_root(tree, row)].tolist()): float(tree.score[row]) for row in rows}
        assert packed == {path_of(candidates, request, node): score for node, score in nodes.items()}


def up_to_root(tree, row: int) -> list[int]:
    path: list[int] = []
    while int(tree.depth[row]) > 0:
        path.insert(0, row)
        row = int(tree.parent[row])
    return path


def test_ancestors_lead_to_the_root():
    tree = select(random_candidates(3, 4, 2, 2, vocab=5, seed=3), torch.zeros(3, dtype=torch.int64), 14)
    for row, ancestors in enumerate(tree.ancestors(4).tolist()):
        path = [row]
        while tree.depth[path[-1]] > 0:
            path.append(int(tree.parent[path[-1]]))
        assert ancestors == path + [path[-1]] * (5 - len(path))


def test_a_chain_keeps_its_order_and_plain_decoding_its_roots():
    chain = random_candidates(2, 5, 1, 1, vocab=5, seed=1)
    tree = select(chain, torch.tensor([7, 8]), 12)
    assert tree.tokens.tolist() == [7, *chain.tokens[0].tolist(), 8, *chain.tokens[1].tolist()]
    assert tree.depth.tolist() == [0, 1, 2, 3, 4, 5] * 2
    plain = select(chain, torch.tensor([7, 8]), 2)
    assert plain.tokens.tolist() == [7, 8] and plain.parent.tolist() == [0, 1]


def test_no_candidates_are_plain_decoding():
    none = torch.zeros(3, 0, dtype=torch.int64)
    tree = select(Candidates(none, none, none[0], none.float()), torch.tensor([4, 5, 6]), 3)
    assert tree.tokens.tolist() == [4, 5, 6] and tree.counts.tolist() == [1, 1, 1]


@pytest.mark.parametrize(("total", "most"), [(1, None), (13, None), (8, 3), (7, 3)])
def test_more_or_fewer_rows_than_there_are_is_refused(total, most):
    chain = random_candidates(2, 5, 1, 1, vocab=5, seed=1)
    with pytest.raises(ValueError, match=f"{total} rows to verify.* take 2 to {12 if most is None else 6}"):
        select(chain, torch.tensor([7, 8]), total, most)
