"""Anchored blocks: where a training block starts, what it must predict, and what it may see.

An anchor a is the position of a block's x0. At decode time x0 is the bonus token, which the target has not read yet:
the block sees the features of positions 0..a-1 and itself, never another block and never the future.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from domino_sglang.core.config import DominoConfig
from domino_sglang.core.devices import to_device
from domino_sglang.training.loop.dataset import Example


@dataclass(frozen=True)
class Blocks:
    """A batch of anchored blocks.

    Attributes:
        anchors: int64 ``[B, A]``; unused places repeat the first anchor and have no valid label.
        tokens: int64 ``[B, A, block_size]``, the true tokens x0..xS (0 beyond the end of the sequence).
        valid: bool ``[B, A, S]``, whether proposal k has a label, ``tokens[..., k]`` for k = 1..S.
        labelled: int64 ``[n]``, where ``valid`` is true, counted through: a GPU would have to stop to find out.
    """

    anchors: torch.Tensor
    tokens: torch.Tensor
    valid: torch.Tensor
    labelled: torch.Tensor

    @property
    def labels(self) -> torch.Tensor:
        """int64 ``[B, A, S]``."""
        return self.tokens[..., 1:]

    def positions(self, rows: int) -> torch.Tensor:
        """int64 ``[B, A * rows]``, absolute positions of the first ``rows`` tokens of every block."""
        offsets = torch.arange(rows, device=self.anchors.device)
        return (self.anchors[..., None] + offsets).flatten(1)

    def to(self, device: torch.device | str) -> Blocks:
        return Blocks(
            *(to_device(part, None, device) for part in (self.anchors, self.tokens, self.valid, self.labelled))
        )


def block_rows(domino: DominoConfig, proposals: int) -> int:
    """Tokens that a block with labels for its first ``proposals`` needs.

    All of them when the block is whole: its last token is attended to, though nothing may be read from it.
    """
    return domino.block_size if proposals == domino.S else domino.first_row + proposals


def draw_anchors(example: Example, count: int, generator: torch.Generator) -> torch.Tensor:
    """At most ``count`` different anchors, sorted: response positions that have a next token."""
    first, last = example.prompt_length, len(example.ids) - 2
    chosen = torch.randperm(last - first + 1, generator=generator)[:count]
    return chosen.sort().values + first


def cut_blocks(examples: Sequence[Example], anchors: Sequence[torch.Tensor], block_size: int) -> Blocks:
    """Tokens and label masks of the blocks that start at ``anchors`` (one int64 tensor per example)."""
    places = max(len(a) for a in anchors)
    starts = torch.stack([torch.cat([a, a[:1].expand(places - len(a))]) for a in anchors])
    used = torch.stack([torch.arange(places) < len(a) for a in anchors])
    tokens = torch.zeros(len(examples), places, block_size, dtype=torch.long)
    valid = torch.zeros(len(examples), places, block_size, dtype=torch.bool)
    offsets = torch.arange(block_size)
    for row, example in enumerate(examples):
        at = starts[row][:, None] + offsets
        valid[row] = (at < len(example.ids)) & used[row][:, None]
        tokens[row] = torch.where(at < len(example.ids), example.ids[at.clamp(max=len(example.ids) - 1)], 0)
    valid = valid[..., 1:]
    return Blocks(starts, tokens, valid, valid.flatten().nonzero().squeeze(1))


def context_mask(anchors: torch.Tensor, length: int) -> torch.Tensor:
    """Which context positions each block sees: bool ``[B, A, length]``, True for positions before the anchor."""
    return torch.arange(length, device=anchors.device) < anchors[..., None]


def full_mask(anchors: torch.Tensor, length: int, block_size: int) -> torch.Tensor:
    """The whole mask of SDPA: bool ``[B, 1, A * block_size, length + A * block_size]``."""
    batch, count = anchors.shape
    context = context_mask(anchors, length).repeat_interleave(block_size, dim=1)
    own = torch.block_diag(*[torch.ones(block_size, block_size, dtype=torch.bool)] * count).to(anchors.device)
    return torch.cat([context, own.expand(batch, -1, -1)], dim=-1)[:, None]
