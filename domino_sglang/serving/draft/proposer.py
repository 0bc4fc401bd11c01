"""What stands behind the backbone: the target's LM head and the Domino head, and the block they draft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F

from domino_sglang.core.config import DominoConfig
from domino_sglang.core.head import Draft, DraftSampling, HeadWeights, VocabShard, rollout
from domino_sglang.core.verify import BonusOf, DraftRows, RowOfQ, bonus_token


@dataclass(frozen=True)
class TargetHead:
    """What the drafter borrows from the target.

    Attributes:
        embed: token ids ``[N]`` -> embeddings ``[N, H]``, complete on every rank.
        table: the embedding as a matrix ``[V, H]``, or None where it is sharded, quantised or wrapped.
        base_logits: hidden states ``[N, H]`` -> this rank's logits ``[N, columns]``.
        shard: which columns those are.
        columns: how many.
        padded_columns: how many any rank has at most; ranks exchange rows of this width.
        lm_head: the rows behind ``base_logits``, ``[columns, H]``, or None where they are quantised or wrapped.
    """

    embed: Callable[[torch.Tensor], torch.Tensor]
    table: torch.Tensor | None
    base_logits: Callable[[torch.Tensor], torch.Tensor]
    shard: VocabShard
    columns: int
    padded_columns: int
    lm_head: torch.Tensor | None = None


@dataclass(frozen=True)
class DraftedBlock:
    """The newest block of a batch, and what verifying it needs.

    Attributes:
        draft: tokens and their probabilities.
        base_logits: ``[B, S, columns]`` that they came from.
        w2: ``[columns, R]``.
        sampling: how they were drawn; None when all were greedy.
        target: says which columns these are.
        bonus_of: draws the token after the accepted ones.
    """

    draft: Draft
    base_logits: torch.Tensor
    w2: torch.Tensor
    sampling: DraftSampling | None
    target: TargetHead
    bonus_of: BonusOf = bonus_token

    def rows(self, requests: slice) -> DraftedBlock:
        """The block of some of the requests."""
        drafted, sampling = self.draft, self.sampling
        draft = Draft(*(x[requests] for x in (drafted.tokens, drafted.log_q, drafted.logsumexp, drafted.correction)))
        if sampling is not None:
            sampling = DraftSampling(*(x[requests] for x in (sampling.temperature, sampling.seed, sampling.position)))
        return replace(self, draft=draft, base_logits=self.base_logits[requests], sampling=sampling)

    def blank(self) -> DraftedBlock:
        """A block of the same shape that has drafted token 0 throughout: static buffers hold anything at start-up."""
        drafted = self.draft
        zeros = (drafted.tokens, drafted.log_q, drafted.logsumexp, drafted.correction)
        return replace(self, draft=Draft(*(torch.zeros_like(x) for x in zeros)))

    @property
    def q_row(self) -> RowOfQ:
        """Rows of the draft distribution over the whole vocabulary.

        Raises:
            RuntimeError: the block was drafted greedily, and a greedy draft has no distribution but a point mass.
        """
        if self.sampling is None:
            raise RuntimeError("a greedy block has no draft distribution: stage temperatures before drafting")
        own = DraftRows(self.base_logits, self.w2, self.draft, self.sampling)
        gather = self.target.shard.all_gather
        if gather is None:
            return own
        padding = self.target.padded_columns - self.target.columns

        # Ranks hold the vocabulary in order, and only the last ones may have columns to spare.
        return lambda index: gather(F.pad(own(index), (0, padding))).transpose(0, 1).flatten(1)


class Proposer(Protocol):
    """Called at the end of the drafter's forward; asked afterwards for what it drafted.

    Attributes:
        name: which head runs, for the start-up line.
        extra_bytes: memory held besides the checkpoint's tensors.
        scratch: memory to lend to the proposer of a shorter block; None where there is none.
    """

    name: str
    scratch: torch.Tensor | None

    @property
    def extra_bytes(self) -> int: ...

    def stage(self, temperature: torch.Tensor | None, seed: torch.Tensor | None) -> None:
        """Say how the next block is drawn: float32 (0 is greedy) and int64 ``[B]``, or None twice for all greedy."""

    def __call__(self, hidden_states: torch.Tensor, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        """Draft from the backbone's output ``[B * block_size, H]``, its tokens and positions ``[B * block_size]``."""

    def block(self, batch: int) -> DraftedBlock:
        """What the newest forward drafted for its first ``batch`` requests."""


def proposal_rows(hidden_states: torch.Tensor, config: DominoConfig, block_size: int) -> torch.Tensor:
    """Rows of the backbone's output that predict proposals 1..S: ``[B * block_size, H]`` -> ``[B, S, H]``."""
    hidden = hidden_states.view(-1, block_size, hidden_states.shape[-1])
    return hidden[:, config.first_row : config.first_row + block_size - 1]


class TorchProposer:
    """Drafts with the head in PyTorch: the CPU path."""

    name = "PyTorch"
    scratch: torch.Tensor | None = None

    def __init__(self, config: DominoConfig, block_size: int, weights: HeadWeights, target: TargetHead):
        self.config, self.block_size, self.weights, self.target = config, block_size, weights, target
        self.staged: tuple[torch.Tensor, torch.Tensor] | None = None
        self.newest: DraftedBlock | None = None

    @property
    def extra_bytes(self) -> int:
        return 0

    def stage(self, temperature: torch.Tensor | None, seed: torch.Tensor | None) -> None:
        self.staged = None if temperature is None or seed is None else (temperature, seed)

    def __call__(self, hidden_states: torch.Tensor, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        z = proposal_rows(hidden_states, self.config, self.block_size)
        base_logits = self.target.base_logits(z.flatten(0, 1)).view(*z.shape[:2], -1)
        sampling = None
        if self.staged is not None:
            sampling = DraftSampling(*self.staged, positions.view(-1, self.block_size)[:, 0])
        draft = rollout(
            self.weights,
            z=z,
            base_logits=base_logits,
            bonus_tokens=input_ids.view(-1, self.block_size)[:, 0],
            embedding=self.target.embed,
            pure_draft_prefix_len=self.config.pure_draft_prefix_len,
            sampling=sampling,
            shard=self.target.shard,
            tokens_only=sampling is None,
        )
        self.newest = DraftedBlock(draft, base_logits, self.weights.w2, sampling, self.target)

    def block(self, batch: int) -> DraftedBlock:
        if self.newest is None or self.newest.draft.tokens.shape[0] != batch:
            raise RuntimeError(f"no block of {batch} requests has been drafted")
        return self.newest


class NoProposer:
    """Proposes nothing: a block is the bonus token alone, and its step is one of plain decoding."""

    name = "nothing"
    scratch: torch.Tensor | None = None
    extra_bytes = 0

    def __init__(self, target: TargetHead, device: torch.device | str):
        self.target, self.device = target, device
        self.staged: tuple[torch.Tensor, torch.Tensor] | None = None
        self.position: torch.Tensor | None = None

    def stage(self, temperature: torch.Tensor | None, seed: torch.Tensor | None) -> None:
        self.staged = None if temperature is None or seed is None else (temperature, seed)

    def __call__(self, hidden_states: torch.Tensor, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        self.position = positions

    def block(self, batch: int) -> DraftedBlock:
        if self.position is None or self.position.shape[0] != batch:
            raise RuntimeError(f"no block of {batch} requests has been drafted")
        tokens = torch.empty(batch, 0, dtype=torch.int64, device=self.device)
        nothing = torch.empty(batch, 0, device=self.device)
        sampling = None if self.staged is None else DraftSampling(*self.staged, self.position)
        none = nothing[..., None]
        return DraftedBlock(Draft(tokens, nothing, nothing, none), none, nothing[:0], sampling, self.target)
