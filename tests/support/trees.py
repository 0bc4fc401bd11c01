"""Random trees of candidates, and what they mean, said without tensors."""

from __future__ import annotations

import torch

from domino_sglang.core.tree import Candidates


def random_candidates(batch: int, depth: int, beam: int, children: int, vocab: int, seed: int) -> Candidates:
    """As a beam leaves them, with scores that tie often and paths of probability one."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    tokens, parents, scores, depths = [], [], [], []
    number = 0
    parent, path = torch.full((batch, 1), -1), torch.zeros(batch, 1)
    for level in range(1, depth + 1):
        width = parent.shape[1]
        child = pick(batch, width, vocab).argsort(-1)[..., :children]
        # Quarters of a unit, zero among them: children as likely as their parents, and equal ones everywhere.
        step = -(4 * pick(batch, width, children)).floor() / 4
        score = (path[:, :, None] + step).flatten(1)
        tokens.append(child.flatten(1))
        parents.append(parent.repeat_interleave(children, 1))
        scores.append(score)
        depths += [level] * score.shape[1]
        path, kept = score.topk(min(beam, score.shape[1]), dim=1)
        parent = kept + number
        number += score.shape[1]
    return Candidates(torch.cat(tokens, 1), torch.cat(parents, 1), torch.tensor(depths), torch.cat(scores, 1))


def path_of(candidates: Candidates, request: int, node: int) -> tuple[int, ...]:
    """Tokens from the root's child down to a candidate."""
    path: list[int] = []
    while node >= 0:
        path.append(int(candidates.tokens[request, node]))
        node = int(candidates.parent[request, node])
    return tuple(reversed(path))


def likeliest(candidates: Candidates, total: int, most: int | None) -> list[dict[int, float]]:
    """The kept candidates of each request with their scores, by sorting all of them in Python."""
    limit = candidates.number if most is None else most - 1
    rows = []
    for request in range(candidates.batch):
        own = sorted(range(candidates.number), key=lambda m: (-float(candidates.score[request, m]), m))[:limit]
        rows += [(-float(candidates.score[request, m]), m, request) for m in own]
    kept: list[dict[int, float]] = [{} for _ in range(candidates.batch)]
    for negative, node, request in sorted(rows)[: total - candidates.batch]:
        kept[request][node] = -negative
    return kept
