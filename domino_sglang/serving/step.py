"""One decode step: what drafting and acceptance need to know of its batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from domino_sglang.serving.sampling.logit_processors import LogitProcessors
from domino_sglang.serving.sampling.penalties import BlockPenalties, TokenLedger, forbid_early_stop


@dataclass(frozen=True)
class DecodeStep:
    """The batch of one decode step as the worker got it.

    Attributes:
        reqs: SGLang's requests, in batch order.
        sampling_info: SGLang's ``SamplingBatchInfo``, with everything the requests asked for.
        penalties: of the requests that have any; None when none has.
        processors: of the requests that have any, for every step alike.
    """

    reqs: list[Any]
    sampling_info: Any
    penalties: BlockPenalties | None
    processors: LogitProcessors

    @classmethod
    def of(cls, batch: Any, ledger: TokenLedger, processors: LogitProcessors) -> DecodeStep:
        """The step that a ``ScheduleBatch`` is about to make."""
        penalties = ledger.penalties(batch.reqs, batch.spec_info.bonus_tokens)
        return cls(batch.reqs, batch.sampling_info, penalties, processors)

    def without_adjustments(self) -> Any:
        """``sampling_info`` less what :meth:`adjust` applies: upstream would treat all positions alike."""
        return dataclasses.replace(
            self.sampling_info,
            penalizer_orchestrator=None,
            acc_additive_penalties=None,
            acc_scaling_penalties=None,
            logit_bias=None,
            has_custom_logit_processor=False,
        )

    def adjusts(self) -> bool:
        """Whether the target's logits are not what its tokens are chosen from."""
        return (
            self.penalties is not None
            or self.sampling_info.logit_bias is not None
            or self.sampling_info.has_custom_logit_processor
            or any(req.sampling_params.min_new_tokens > 0 for req in self.reqs)
        )

    def adjust(self, logits: torch.Tensor, candidates: torch.Tensor, seq_lens: torch.Tensor, at_once: int) -> None:
        """Penalties, ``min_new_tokens``, bias and custom processors in place, in this order, position by position.

        Args:
            logits: ``[B, S + 1, V]``; row j predicts the token after j drafted ones.
            candidates: int64 ``[B, S + 1]``, the newest token of each request and the drafted ones.
            seq_lens: int64 ``[B]``, committed tokens in the KV cache.
            at_once: requests that are penalised together: each takes several tensors ``[S + 1, V]`` in float32.
        """
        if self.penalties is not None:
            for some in self.penalties.split(at_once):
                some.apply(logits, candidates[:, 1:])
        forbid_early_stop(logits, self.reqs, seq_lens)
        if self.sampling_info.logit_bias is not None:
            logits += self.sampling_info.logit_bias[:, None].to(logits.dtype)
        self.processors.apply(logits, self.sampling_info, self.reqs, candidates, seq_lens)
