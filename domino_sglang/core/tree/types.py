"""The data of a draft tree: candidates as they are drafted, nodes as they are verified, the path that is accepted."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Candidates:
    """Every node that one draft pass proposes, M of each request, those of smaller depth first.

    Attributes:
        tokens: int64 ``[B, M]``. The children of one node differ.
        parent: int64 ``[B, M]``, the parent's number among the candidates, always smaller than the child's; -1 is the
            request's root, its last committed token.
        depth: int64 ``[M]``, 1 for the root's children.
        score: float32 ``[B, M]``, log-probability that the whole path up to this node is accepted, as the drafter sees
            it; never above its parent's, and never above 0.
    """

    tokens: torch.Tensor
    parent: torch.Tensor
    depth: torch.Tensor
    score: torch.Tensor

    @property
    def batch(self) -> int:
        return self.tokens.shape[0]

    @property
    def number(self) -> int:
        """M."""
        return self.tokens.shape[1]


@dataclass(frozen=True)
class DraftTree:
    """The T nodes of a batch that are verified, request after request, each request's root first, parents before
    children.

    Attributes:
        tokens: int64 ``[T]``.
        parent: int64 ``[T]``, row of the parent; a root's is its own.
        depth: int64 ``[T]``, 0 for roots; a node stands at the root's position plus its depth.
        request: int64 ``[T]``, number of the request in the batch.
        score: float32 ``[T]``, of :class:`Candidates`; 0 for roots.
        start: int64 ``[B]``, row of each request's root.
        counts: int64 ``[B]``, rows of each request, root included.
    """

    tokens: torch.Tensor
    parent: torch.Tensor
    depth: torch.Tensor
    request: torch.Tensor
    score: torch.Tensor
    start: torch.Tensor
    counts: torch.Tensor

    @property
    def total(self) -> int:
        """T, the rows that the target reads."""
        return self.tokens.shape[0]

    def ancestors(self, longest: int) -> torch.Tensor:
        """int64 ``[T, longest + 1]``: rows from each node up to its root, the node itself first, the root repeated.

        ``longest`` is at least the greatest depth.
        """
        rows = [torch.arange(self.total, device=self.tokens.device)]
        for _ in range(longest):
            rows.append(self.parent[rows[-1]])
        return torch.stack(rows, 1)


@dataclass(frozen=True)
class Walk:
    """The accepted path of each request.

    Attributes:
        accept_len: int64 ``[B]``, accepted proposals, the bonus token not counted.
        rows: int64 ``[B, D + 1]``, rows of the tree along the path, the root's first, its last one repeated.
        tokens: int64 ``[B, D + 1]``, what is committed: the target's choice behind each row of the path, so that
            ``tokens[b, accept_len[b]]`` is the bonus token; what follows it means nothing.
    """

    accept_len: torch.Tensor
    rows: torch.Tensor
    tokens: torch.Tensor

    @property
    def commit_len(self) -> torch.Tensor:
        """int64 ``[B]``, committed tokens, bonus included."""
        return self.accept_len + 1

    @property
    def bonus(self) -> torch.Tensor:
        """int64 ``[B]``."""
        return self.tokens.gather(1, self.accept_len[:, None]).squeeze(1)
