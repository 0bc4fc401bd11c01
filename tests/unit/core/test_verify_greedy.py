"""Greedy acceptance: the longest prefix that agrees with the target's argmax."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from domino_sglang.core.verify import accept_greedy


def by_hand(draft, target):
    accepted = 0
    while accepted < len(draft) and draft[accepted] == target[accepted]:
        accepted += 1
    return accepted, target[accepted]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(0, 10_000))
def test_equals_the_loop_one_would_write(batch, proposals, vocab, seed):
    g = torch.Generator().manual_seed(seed)
    draft = torch.randint(vocab, (batch, proposals), generator=g)
    target = torch.randint(vocab, (batch, proposals + 1), generator=g)
    result = accept_greedy(draft, target)
    assert result.accept_len.dtype == torch.int32 and result.bonus.dtype == torch.int64
    expected = [by_hand(d, t) for d, t in zip(draft.tolist(), target.tolist(), strict=True)]
    assert list(zip(result.accept_len.tolist(), result.bonus.tolist(), strict=True)) == expected
    assert result.commit_len.tolist() == [n + 1 for n, _ in expected]


def test_a_match_after_a_mismatch_does_not_count():
    result = accept_greedy(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 9, 3, 4]]))
    assert result.accept_len.tolist() == [1] and result.bonus.tolist() == [9]


def test_int32_predictions_of_a_kernel_are_taken():
    result = accept_greedy(torch.tensor([[1]]), torch.tensor([[1, 5]], dtype=torch.int32))
    assert result.bonus.dtype == torch.int64 and result.bonus.tolist() == [5]
