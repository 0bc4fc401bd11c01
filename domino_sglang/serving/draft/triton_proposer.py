"""The proposer on a GPU: the head's Triton kernels between static buffers, so that it replays in a CUDA graph."""

from __future__ import annotations

import torch

from domino_kernels import BonusDraw, DominoRollout
from domino_kernels import VocabShard as KernelShard
from domino_sglang.core.config import DominoConfig
from domino_sglang.core.head import Draft, DraftSampling, HeadWeights
from domino_sglang.core.verify import BonusOf, DraftRows, bonus_token
from domino_sglang.serving.draft.proposer import DraftedBlock, TargetHead, proposal_rows


class TritonProposer:
    """Drafts with ``domino_kernels``.

    A captured graph runs no Python, so everything a step leaves behind is read from buffers at fixed addresses: the
    kernels' own, and here the base logits and how each request is sampled.

    Args:
        max_batch: most requests in one forward, padding of CUDA-graph buckets included.
        scratch: memory for the base logits, of a proposer of a longer block that never runs at the same time; None
            allocates it.
    """

    name = "Triton"

    def __init__(
        self,
        config: DominoConfig,
        block_size: int,
        weights: HeadWeights,
        target: TargetHead,
        max_batch: int,
        scratch: torch.Tensor | None = None,
    ):
        self.config, self.block_size, self.weights, self.target = config, block_size, weights, target
        proposals, device, dtype = block_size - 1, weights.w2.device, weights.w2.dtype
        shard = target.shard
        self.rollout = DominoRollout(
            weights,
            embedding=target.embed if target.table is None else target.table,
            max_batch=max_batch,
            num_proposals=proposals,
            pure_draft_prefix_len=min(config.pure_draft_prefix_len, proposals),
            shard=None if shard.all_gather is None else KernelShard(shard.start, shard.all_gather),
        )
        # A rank that holds a part of the vocabulary has a part of q: its bonus token is drawn in PyTorch.
        self.bonus_of = bonus_by_kernel(weights.w2) if shard.all_gather is None else bonus_token
        size = max_batch * proposals * target.columns
        if scratch is None:
            scratch = torch.empty(size, dtype=dtype if target.lm_head is None else target.lm_head.dtype, device=device)
        self.scratch: torch.Tensor | None = scratch
        self.base_logits = scratch[:size].view(max_batch, proposals, target.columns)
        self.temperature = torch.zeros(max_batch, dtype=torch.float32, device=device)
        self.seed = torch.zeros(max_batch, dtype=torch.int64, device=device)
        self.position = torch.zeros(max_batch, dtype=torch.int64, device=device)

    @property
    def extra_bytes(self) -> int:
        held = [self.base_logits, self.temperature, self.seed, self.position]
        return self.rollout.extra_bytes + sum(value.numel() * value.element_size() for value in held)

    def stage(self, temperature: torch.Tensor | None, seed: torch.Tensor | None) -> None:
        if temperature is None or seed is None:
            self.temperature.zero_()
            return
        batch = temperature.shape[0]
        self.temperature[:batch].copy_(temperature, non_blocking=True)
        self.temperature[batch:].zero_()
        self.seed[:batch].copy_(seed, non_blocking=True)

    @torch.compiler.disable  # --enable-torch-compile compiles the forward around these kernels
    def __call__(self, hidden_states: torch.Tensor, input_ids: torch.Tensor, positions: torch.Tensor) -> None:
        z = proposal_rows(hidden_states, self.config, self.block_size)
        batch = z.shape[0]
        self._score(z.flatten(0, 1), self.base_logits[:batch].view(-1, self.target.columns))
        self.position[:batch].copy_(positions.view(-1, self.block_size)[:, 0])
        self.rollout(
            z,
            self.base_logits[:batch],
            input_ids.view(-1, self.block_size)[:, 0].contiguous(),
            self._sampling(batch),
        )

    def _score(self, hidden_states: torch.Tensor, base_logits: torch.Tensor) -> None:
        lm_head = self.target.lm_head
        if lm_head is None:
            base_logits.copy_(self.target.base_logits(hidden_states))
        else:
            # In place: a copy would cost a second tensor of this size, and reading and writing it.
            torch.mm(hidden_states.to(lm_head.dtype), lm_head.t(), out=base_logits)

    def block(self, batch: int) -> DraftedBlock:
        left = self.rollout.proposals(batch)
        draft = Draft(left.tokens, left.log_q, left.logsumexp, left.correction)
        sampling, base_logits = self._sampling(batch), self.base_logits[:batch]
        return DraftedBlock(draft, base_logits, self.weights.w2, sampling, self.target, self.bonus_of)

    def _sampling(self, batch: int) -> DraftSampling:
        return DraftSampling(self.temperature[:batch], self.seed[:batch], self.position[:batch])


def bonus_by_kernel(w2: torch.Tensor) -> BonusOf:
    """:func:`domino_sglang.core.verify.bonus_token` in one kernel, for a rank that holds all of ``w2 [V, R]``."""
    draw = BonusDraw(w2)

    def bonus_of(p, draft_tokens, q_row, sampling, accept_len, scale) -> torch.Tensor:
        assert isinstance(q_row, DraftRows)
        left = q_row.draft
        block = (draft_tokens.contiguous(), q_row.base_logits, left.correction, left.logsumexp, sampling)
        return draw(p, *block, accept_len.long(), scale)

    return bonus_of
