"""Token-wise rejection sampling: each proposal is accepted or rejected on its own, in order."""

from __future__ import annotations

import torch

from domino_sglang.core.head import DraftSampling
from domino_sglang.core.random_numbers import STREAM_ACCEPT, counter_key, uniform
from domino_sglang.core.verify.acceptance import Acceptance, leading_true, with_greedy_rows
from domino_sglang.core.verify.bonus import BonusOf, bonus_token
from domino_sglang.core.verify.draft_rows import RowOfQ


def accept_sampled(
    p: torch.Tensor,
    draft_tokens: torch.Tensor,
    log_q: torch.Tensor,
    q_row: RowOfQ,
    sampling: DraftSampling,
    *,
    target_greedy: torch.Tensor | None = None,
    target_predict: torch.Tensor | None = None,
    bonus_of: BonusOf = bonus_token,
) -> Acceptance:
    """Accept ``x_j`` with probability ``min(1, p(x_j) / q(x_j))``; at the first rejection draw from ``max(p - q, 0)``.

    Args:
        p: float32 ``[B, S+1, V]``, the target's distribution after x0..xS, as plain decoding would sample it: after
            temperature, top-k, top-p, min-p, penalties, bias and grammar; rows sum to 1, masked entries are exactly 0.
        draft_tokens: int64 ``[B, S]``.
        log_q: float32 ``[B, S]``, log-probability of each token under the distribution it was drawn from.
        q_row: gives back one row of q for each request; asked once.
        sampling: how the proposals were drawn. Temperature 0 means the draft was greedy: q is then the point mass at
            the drafted token whatever ``log_q`` says, so it is accepted with probability p. Seed and position are also
            the counters of the coins and of the bonus token.
        target_greedy: bool ``[B]``, requests verified by argmax (:func:`~domino_sglang.core.verify.with_greedy_rows`).
        target_predict: int64 ``[B, S+1]``, the target's argmax for those requests.
        bonus_of: draws the bonus token; a kernel's on a GPU.

    Source: arXiv 2211.17192, algorithm 1; upstream ``speculative_sampling_classic_kernel`` with
    ``BLOCK_VERIFICATION=False``.
    """
    accepted = accept_coins(sampling, draft_tokens.shape[1]).log() <= log_ratio(p, draft_tokens, log_q, sampling)
    accept_len = leading_true(accepted)
    bonus = bonus_of(p, draft_tokens, q_row, sampling, accept_len, None)
    return with_greedy_rows(Acceptance(accept_len, bonus), p, draft_tokens, target_greedy, target_predict)


def log_ratio(
    p: torch.Tensor, draft_tokens: torch.Tensor, log_q: torch.Tensor, sampling: DraftSampling
) -> torch.Tensor:
    """``log p(x_j) - log q(x_j)``, float32 ``[B, S]``; minus infinity where the proposal must be rejected.

    In log space, because q(x) may be too small for float32 while the ratio is not. Rejected for certain: tokens with
    p = 0 or beyond p's columns, and a ``log_q`` that no drawn token has (NaN or infinite).
    """
    vocab = p.shape[-1]
    log_q = torch.where((sampling.temperature <= 0)[:, None], 0.0, log_q)
    p_of_token = p[:, :-1].gather(-1, draft_tokens.long().clamp(0, vocab - 1)[..., None]).squeeze(-1)
    possible = (p_of_token > 0) & log_q.isfinite() & (draft_tokens >= 0) & (draft_tokens < vocab)
    return torch.where(possible, p_of_token.log() - log_q, -torch.inf)


def accept_coins(sampling: DraftSampling, proposals: int) -> torch.Tensor:
    """float32 uniforms in (0, 1], ``[B, S]``, one per proposal."""
    index = torch.arange(proposals, device=sampling.seed.device)
    key = counter_key(sampling.seed[:, None], sampling.position[:, None], index, STREAM_ACCEPT)
    return uniform(key, torch.zeros_like(index))
