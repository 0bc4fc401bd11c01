"""Which candidates are verified: the likeliest of the whole batch."""

from __future__ import annotations

import torch

from domino_sglang.core.tree.types import Candidates, DraftTree


def select(candidates: Candidates, roots: torch.Tensor, total: int, most: int | None = None) -> DraftTree:
    """Keep the ``total - B`` candidates of highest score over all requests; each request's root is always kept.

    The set is closed under parents: a score is never above its parent's, and of equal scores the smaller depth goes
    first, then the smaller number, then the smaller request. Nothing waits for the device: T is known beforehand.

    Args:
        candidates: of the batch.
        roots: int64 ``[B]``, each request's last committed token.
        total: T, rows to verify, roots included.
        most: nodes of one request at most, its root included; None is no limit.

    Raises:
        ValueError: ``total`` is below one row a request, or above what ``most`` and the candidates allow.
    """
    batch, number = candidates.batch, candidates.number
    per_request = number if most is None else min(number, most - 1)
    if not batch <= total <= batch * (per_request + 1):
        raise ValueError(
            f"{total} rows to verify, and {batch} requests of {number} candidates each, {most or 'no'} rows of one at "
            f"most, take {batch} to {batch * (per_request + 1)}"
        )
    device = roots.device
    score = candidates.score
    if per_request < number:
        order = score.argsort(dim=1, descending=True, stable=True)[:, per_request:]
        score = score.scatter(1, order, -torch.inf)
    # Candidate-major, so that a stable sort puts a parent before a child of the same score.
    best = score.t().flatten().argsort(descending=True, stable=True)[: total - batch]
    kept = torch.zeros(number * batch, dtype=torch.bool, device=device)
    kept[best] = True
    rank = kept.view(number, batch).long().cumsum(0)
    counts = rank[-1] + 1 if number else torch.ones(batch, dtype=torch.int64, device=device)
    start = counts.cumsum(0) - counts
    which, request = best // batch, best % batch
    row = start[request] + rank[which, request]
    parent = candidates.parent[request, which]
    parent_row = start[request] + torch.where(parent < 0, 0, rank[parent.clamp(min=0), request])

    def packed(root: torch.Tensor, node: torch.Tensor) -> torch.Tensor:
        """One value a row, from those of the roots ``[B]`` and of the kept candidates."""
        return node.new_empty(total).index_copy_(0, start, root.to(node.dtype)).index_copy_(0, row, node)

    numbers = torch.arange(batch, device=device)
    return DraftTree(
        tokens=packed(roots, candidates.tokens[request, which]),
        parent=packed(start, parent_row),
        depth=packed(torch.zeros_like(start), candidates.depth[which]),
        request=packed(numbers, request),
        score=packed(torch.zeros_like(start), candidates.score[request, which]),
        start=start,
        counts=counts,
    )
