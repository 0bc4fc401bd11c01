"""What stands behind the backbone: the target's LM head and the Domino head, proposals left in static buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from domino_sglang.config import DominoConfig
from domino_sglang.head import Draft, DraftSampling, HeadWeights, VocabShard, rollout


@dataclass(frozen=True)
class TargetHead:
    """What the drafter borrows from the target.

    Attributes:
        embed: token ids ``[N]`` -> embeddings ``[N, H]``, complete on every rank.
        base_logits: hidden states ``[N, H]`` -> this rank's logits ``[N, columns]``.
        shard: which columns those are.
        columns: how many.
    """

    embed: Callable[[torch.Tensor], torch.Tensor]
    base_logits: Callable[[torch.Tensor], torch.Tensor]
    shard: VocabShard
    columns: int


class TorchProposer:
    """Drafts with the head in PyTorch: the CPU path.

    Attributes:
        draft: the newest block's proposals, :class:`~domino_sglang.head.Draft` of ``[B, S]``.
        base_logits: ``[B, S, columns]`` that they came from.
    """

    name = "PyTorch"
    extra_bytes = 0

    def __init__(self, config: DominoConfig, block_size: int, weights: HeadWeights, target: TargetHead):
        self.config, self.block_size, self.weights, self.target = config, block_size, weights, target
        self.temperature: torch.Tensor | None = None
        self.seed: torch.Tensor | None = None
        self.sampling: DraftSampling | None = None
        self.draft: Draft | None = None
        self.base_logits: torch.Tensor | None = None

    def stage(self, temperature: torch.Tensor | None, seed: torch.Tensor | None) -> None:
        """Say how the next block is drawn: float32 and int64 ``[B]``, or None and None for a greedy batch."""
        self.temperature, self.seed = temperature, seed

    def __call__(self, hidden_states: torch.Tensor, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        """Draft from the backbone's output ``[B * block_size, H]``, its tokens and positions ``[B * block_size]``."""
        block, proposals = self.block_size, self.block_size - 1
        first = self.config.first_row
        hidden = hidden_states.view(-1, block, hidden_states.shape[-1])
        z = hidden[:, first : first + proposals]
        self.base_logits = self.target.base_logits(z.flatten(0, 1)).view(z.shape[0], proposals, -1)
        self.sampling = None
        if self.temperature is not None:
            self.sampling = DraftSampling(self.temperature, self.seed, positions.view(-1, block)[:, 0])
        self.draft = rollout(
            self.weights,
            z=z,
            base_logits=self.base_logits,
            bonus_tokens=input_ids.view(-1, block)[:, 0],
            embedding=self.target.embed,
            pure_draft_prefix_len=self.config.pure_draft_prefix_len,
            sampling=self.sampling,
            shard=self.target.shard,
        )

    def tokens(self, batch: int) -> torch.Tensor:
        """int64 ``[batch, S]``."""
        return self.draft.tokens[:batch]

    def q_row(self, index: torch.Tensor | int) -> torch.Tensor:
        """float32 ``[B, V]``: each request's draft distribution at one proposal."""
        from domino_sglang.verify import DraftRows

        row = DraftRows(self.base_logits, self.weights.w2, self.draft, self.sampling)(index)
        gather = self.target.shard.all_gather
        return row if gather is None else gather_columns(row, gather)


def gather_columns(row: torch.Tensor, all_gather: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Ranks' columns ``[B, columns]`` -> ``[B, ranks * columns]``, in the order of the vocabulary."""
    return all_gather(row).transpose(0, 1).flatten(1)


def dense_base_logits(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The target's LM head as a matrix ``[columns, H]``."""

    def base_logits(hidden_states: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden_states.to(weight.dtype), weight)

    return base_logits
