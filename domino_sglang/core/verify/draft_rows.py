"""Rows of the draft distribution q, recomputed when one is needed instead of kept as ``[B, S, V]``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from domino_sglang.core.head import Draft, DraftSampling, corrected_logits

RowOfQ = Callable[[torch.Tensor | int], torch.Tensor]
"""``q_row(index) -> float32 [B, V]``: each request's row of q at the proposal ``index`` (0-based).

``index`` is an int for one position of every request, or int64 ``[B]`` for a position of each. Rows of requests that
draft greedily are never read. Under tensor parallelism the function gathers the ranks' columns.
"""


def rows_at(x: torch.Tensor, index: torch.Tensor | int) -> torch.Tensor:
    """``x [B, N, ...]`` -> ``[B, ...]`` at one row for all (a view), or at a row for each request."""
    if isinstance(index, int):
        return x[:, index]
    return x[torch.arange(x.shape[0], device=x.device), index]


@dataclass(frozen=True)
class DraftRows:
    """A :data:`RowOfQ` over what the head leaves behind: ``[B, S, R]`` of corrections and the base logits.

    It repeats the arithmetic of :func:`~domino_sglang.core.head.choose`,
    because a residual is exact only against the very
    distribution the proposal was drawn from. Proposals inside ``pure_draft_prefix_len`` need no case of their own:
    their correction is zero.

    Attributes:
        base_logits: ``[B, S, V]``, row j of proposal j (``shift_label`` applied), as the rollout read them.
        w2: ``[V, R]``.
        draft: the step's :class:`~domino_sglang.core.head.Draft`.
        sampling: how the proposals were drawn.
    """

    base_logits: torch.Tensor
    w2: torch.Tensor
    draft: Draft
    sampling: DraftSampling

    def __call__(self, index: torch.Tensor | int) -> torch.Tensor:
        temperature = self.sampling.temperature
        logits = corrected_logits(rows_at(self.base_logits, index), rows_at(self.draft.correction, index), self.w2)
        logits = logits / torch.where(temperature <= 0, 1.0, temperature)[:, None]
        return logits.sub_(rows_at(self.draft.logsumexp, index)[:, None]).exp_()
