"""The walk against following the target's choices in Python, and the distribution of what it commits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from domino_sglang.core.shared_noise import gumbel
from domino_sglang.core.tree import Candidates, select, walk
from tests.support.trees import random_candidates


@settings(max_examples=150, deadline=None)
@given(
    batch=st.integers(1, 4),
    depth=st.integers(1, 4),
    beam=st.integers(1, 3),
    children=st.integers(1, 3),
    share=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_the_path_that_the_target_would_have_said_is_accepted(batch, depth, beam, children, share, seed):
    candidates = random_candidates(batch, depth, beam, children, vocab=3, seed=seed)
    total = batch + round(share * batch * candidates.number)
    tree = select(candidates, torch.zeros(batch, dtype=torch.int64), total)
    choice = torch.randint(3, (total,), generator=torch.Generator().manual_seed(seed))
    found = walk(tree, choice, depth)
    for request in range(batch):
        row, path, said = int(tree.start[request]), [int(tree.start[request])], []
        while True:
            said.append(int(choice[row]))
            after = [
                child
                for child in range(total)
                if int(tree.parent[child]) == row and child != row and int(tree.tokens[child]) == said[-1]
            ]
            assert len(after) <= 1
            if not after:
                break
            row = after[0]
            path.append(row)
        assert int(found.accept_len[request]) == len(path) - 1
        assert found.rows[request].tolist() == path + [path[-1]] * (depth + 1 - len(path))
        assert found.tokens[request, : len(path)].tolist() == said
        assert int(found.bonus[request]) == said[-1]
    assert torch.equal(found.commit_len, found.accept_len + 1)


VOCAB, LENGTH, TEXTS = 3, 3, 20_000


def test_the_text_is_the_targets_though_the_tree_was_chosen_from_the_noise():
    """Trees that keep just those nodes that the noise is going to refuse, or to accept: the text does not move."""
    table = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]], dtype=torch.float64)
    seeds = torch.randperm(10 * TEXTS, generator=torch.Generator().manual_seed(0))[:TEXTS]
    position = torch.arange(LENGTH)
    noise = gumbel(seeds[:, None, None], position[None, :, None], torch.arange(VOCAB))  # [N, LENGTH, V]

    def target(tokens: torch.Tensor, at: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """The target's token behind each of these, at these positions of these texts."""
        return (table[tokens].log() + noise[text, at]).argmax(-1)

    plain = torch.zeros(TEXTS, LENGTH + 1, dtype=torch.int64)
    for j in range(LENGTH):
        plain[:, j + 1] = target(plain[:, j], torch.tensor(j), torch.arange(TEXTS))
    for keep_what_will_be_accepted in (True, False):
        committed = torch.zeros(TEXTS, LENGTH + 1, dtype=torch.int64)
        done = torch.zeros(TEXTS, dtype=torch.int64)
        while bool((done < LENGTH).any()):
            text = torch.nonzero(done < LENGTH)[:, 0]
            at = done[text]
            root = committed[text, at]
            drawn = target(root, at, text)
            # Two children of the root: an adversary who knows the noise makes one of them right, or both wrong.
            right = (drawn + (0 if keep_what_will_be_accepted else 1)) % VOCAB
            other = (drawn + 2) % VOCAB
            tokens = torch.stack([right, other], 1)
            none = torch.full_like(tokens, -1)
            score = torch.zeros(len(text), 2)
            tree = select(Candidates(tokens, none, torch.tensor([1, 1]), score), root, 3 * len(text))
            ahead = at[tree.request] + tree.depth
            choice = target(tree.tokens, ahead.clamp(max=LENGTH - 1), text[tree.request])
            found = walk(tree, choice, 1)
            assert bool((found.accept_len == int(keep_what_will_be_accepted)).all())
            for column in range(2):
                fits = (found.commit_len > column) & (at + column < LENGTH)
                committed[text[fits], (at + column + 1)[fits]] = found.tokens[fits, column]
            done[text] = torch.minimum(at + found.commit_len, torch.tensor(LENGTH))
        assert torch.equal(committed, plain)
    cell = (plain[:, 1:] * VOCAB ** torch.arange(LENGTH)).sum(1)
    expected = table[0][:, None, None] * table[:, :, None] * table[None]
    expected = expected.permute(2, 1, 0).flatten() * TEXTS
    assert stats.chisquare(cell.bincount(minlength=VOCAB**LENGTH).numpy(), expected.numpy()).pvalue > 1e-4
