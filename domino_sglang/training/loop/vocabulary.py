"""The part of the vocabulary a training softmax runs over.

On a CPU two 49,152-wide softmaxes are most of a step. The sampled one is exact on the frequent tokens and on every
label; the rest of the partition sum is estimated from a uniform sample, each sampled token standing for
``rest / sample`` tokens. With ``frequent = 0`` the softmax is the full one and nothing is estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from domino_sglang.core.devices import to_device


@dataclass(frozen=True)
class Candidates:
    """Columns of the softmax.

    Attributes:
        ids: int64 ``[n]``, or None for the whole vocabulary in its order.
        offset: float32 ``[n]`` added to the logits: log of how many tokens a column stands for; None with ``ids``.
    """

    ids: torch.Tensor | None
    offset: torch.Tensor | None

    def to(self, device: torch.device | str) -> Candidates:
        if self.ids is None or self.offset is None:
            return self
        return Candidates(to_device(self.ids, None, device), to_device(self.offset, None, device))

    def columns(self, labels: torch.Tensor) -> torch.Tensor:
        """Column of each label."""
        return labels if self.ids is None else torch.searchsorted(self.ids, labels)

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """The candidates' rows of ``weight [V, n]``."""
        return weight if self.ids is None else weight[self.ids]


FULL = Candidates(None, None)


def draw_candidates(
    frequent: torch.Tensor, labels: torch.Tensor, vocab_size: int, sample: int, generator: torch.Generator
) -> Candidates:
    """``frequent`` tokens, the labels of this batch, and ``sample`` others drawn uniformly without replacement.

    Args:
        frequent: int64 ``[f]`` sorted; empty asks for the full vocabulary.
        labels: int64 ``[m]`` on the CPU.
    """
    if not len(frequent) or len(frequent) + sample >= vocab_size:
        return FULL
    exact = torch.zeros(vocab_size, dtype=torch.bool)
    exact[frequent] = True
    exact[labels] = True
    rest = (~exact).nonzero().squeeze(1)
    drawn = rest[torch.randperm(len(rest), generator=generator)[:sample]]
    offset = torch.zeros(vocab_size)
    if len(drawn):
        offset[drawn] = math.log(len(rest) / len(drawn))
        exact[drawn] = True
    ids = exact.nonzero().squeeze(1)
    return Candidates(ids, offset[ids])
