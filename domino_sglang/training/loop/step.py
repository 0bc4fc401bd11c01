"""One forward of training as a module, so that FSDP sees every parameter inside one ``forward``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from domino_sglang.hf import DominoDraftModel
from domino_sglang.training.loop.anchors import Blocks, block_rows
from domino_sglang.training.loop.attention import block_attention
from domino_sglang.training.loop.drafter import TargetEnds
from domino_sglang.training.loop.loss import BlockLoss, block_loss
from domino_sglang.training.loop.vocabulary import FULL, Candidates
from domino_sglang.training.recipe import TrainRecipe


class TrainingStep(nn.Module):
    """Features and blocks in, the loss out. The target's ends are held outside of the module's parameters."""

    def __init__(self, drafter: DominoDraftModel, ends: TargetEnds, recipe: TrainRecipe):
        super().__init__()
        self.drafter = drafter
        self.recipe = recipe
        self._ends = (ends,)  # a tuple, so that nothing registers or shards the frozen weights

    def forward(
        self, features: torch.Tensor, blocks: Blocks, base_weight: float, candidates: Candidates = FULL
    ) -> BlockLoss:
        """Features ``[B, T, K * H]`` and blocks ``[B, A]`` -> the loss over all their labels.

        With distillation the target's last hidden state lies behind the features: ``[B, T, (K + 1) * H]``.
        """
        drafter, ends, domino = self.drafter, self._ends[0], self.drafter.domino
        batch, length = features.shape[:2]
        places = torch.arange(length, device=features.device).expand(batch, -1)
        context = drafter.context_key_values(features[..., : drafter.fc.in_features], places)
        proposals = blocks.labels.shape[-1]
        rows = block_rows(domino, proposals)
        block_ids = drafter.block_ids(blocks.tokens[..., 0])[..., :rows].flatten(1)
        attend = block_attention(self.recipe.attention, blocks.anchors, length, rows)
        z = drafter(F.embedding(block_ids, ends.embedding), blocks.positions(rows), context, attend)
        z = z.view(-1, rows, domino.H)[:, domino.first_row : domino.first_row + proposals]
        return block_loss(
            drafter.head_weights(),
            z,
            blocks.tokens.flatten(0, 1),
            blocks.labelled,
            embedding=ends.embedding,
            lm_head=ends.lm_head,
            pure_draft_prefix_len=domino.pure_draft_prefix_len,
            base_weight=base_weight,
            gamma=self.recipe.gamma,
            method=self.recipe.method,
            candidates=candidates,
            teacher=self._teacher(features, blocks) if self.recipe.distill else None,
            distill=self.recipe.distill,
        )

    def _teacher(self, features: torch.Tensor, blocks: Blocks) -> torch.Tensor:
        """The target's last hidden state where it wrote each label: the position before it. ``[B * A, S, H]``."""
        states = features[..., self.drafter.fc.in_features :]
        before = blocks.anchors[..., None] + torch.arange(blocks.labels.shape[-1], device=features.device)
        rows = before.clamp(max=states.shape[1] - 1).flatten(1)[..., None].expand(-1, -1, states.shape[-1])
        return states.gather(1, rows).view(-1, *before.shape[-1:], states.shape[-1])
