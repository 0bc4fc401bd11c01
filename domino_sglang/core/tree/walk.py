"""Which nodes are accepted: those that the target would have said itself."""

from __future__ import annotations

import torch

from domino_sglang.core.tree.types import DraftTree, Walk


def walk(tree: DraftTree, choice: torch.Tensor, longest: int) -> Walk:
    """Follow the target's choices from each root as far as the tree has them.

    Greedy and sampled requests alike: a token that was drawn is a choice too, as long as it does not depend on the tree
    (:mod:`domino_sglang.core.shared_noise`). One path a request is accepted, since a node's children differ.

    Args:
        choice: int64 ``[T]``, the token that the target puts behind each row.
        longest: D, at least the greatest depth in the tree. The loop goes over depths; nothing waits for the device.
    """
    matches = (tree.tokens == choice[tree.parent]) & (tree.depth > 0)
    accepted = tree.depth == 0
    for _ in range(longest):
        accepted = accepted | (matches & accepted[tree.parent])
    accept_len = torch.zeros_like(tree.start).index_add_(0, tree.request, accepted.long()) - 1
    # Rejected nodes go to a column of their own, which is then cut off.
    column = torch.where(accepted, tree.depth, longest + 1)
    rows = tree.start.new_empty(len(tree.start), longest + 2)
    rows[tree.request, column] = torch.arange(tree.total, device=rows.device)
    last = torch.minimum(torch.arange(longest + 1, device=rows.device)[None], accept_len[:, None])
    rows = rows.gather(1, last)
    return Walk(accept_len, rows, choice[rows])
