"""Block verification: how far the whole block is accepted, decided jointly. Never shorter in expectation."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from domino_sglang.core.head import DraftSampling
from domino_sglang.core.verify.acceptance import Acceptance, with_greedy_rows
from domino_sglang.core.verify.bonus import BonusOf, bonus_token, residual
from domino_sglang.core.verify.draft_rows import RowOfQ
from domino_sglang.core.verify.token_wise import accept_coins, log_ratio


def accept_block(
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
    """Accept the longest prefix that wins its own coin, where a likely continuation may save an unlikely token.

    With ``P_0 = 1`` and ``P_i = min(P_{i-1} p(x_i) / q(x_i), 1)``, prefix i is accepted with probability
    ``h_i = m_i / (m_i + 1 - P_i)``, ``m_i = sum_v max(P_i p_i(v) - q_{i+1}(v), 0)``, and the last with ``h_S = P_S``;
    the bonus token comes from ``max(P_i p_i - q_{i+1}, 0)`` after the longest accepted prefix.

    Arguments as in :func:`~domino_sglang.core.verify.accept_sampled`, but ``q_row`` is asked for every position, one
    ``[B, V]`` row at a time: S - 1 times for the sums, once more for the bonus token.

    Source: arXiv 2403.10444, algorithm 2; upstream ``speculative_sampling_classic_kernel`` with
    ``BLOCK_VERIFICATION=True``.
    """
    prefix = _prefix_probability(log_ratio(p, draft_tokens, log_q, sampling))
    accept_len = _longest(
        accept_coins(sampling, prefix.shape[1]) <= _accept_probability(p, draft_tokens, q_row, sampling, prefix)
    )
    one = torch.ones_like(p[:, 0, :1])
    scale = torch.cat([one, prefix[:, :-1], one], 1)
    scale = scale.gather(1, accept_len[:, None].long()).squeeze(1)
    bonus = bonus_of(p, draft_tokens, q_row, sampling, accept_len, scale)
    return with_greedy_rows(Acceptance(accept_len, bonus), p, draft_tokens, target_greedy, target_predict)


def _prefix_probability(ratio: torch.Tensor) -> torch.Tensor:
    """``P_1..P_S`` from ``log p(x_i) - log q(x_i)``: float32 ``[B, S]`` -> ``[B, S]``."""
    log_prefix = torch.zeros_like(ratio)
    running = ratio.new_zeros(ratio.shape[0])
    for i in range(ratio.shape[1]):
        running = (running + ratio[:, i]).clamp(max=0)
        log_prefix[:, i] = running
    return log_prefix.exp()


def _accept_probability(
    p: torch.Tensor, draft_tokens: torch.Tensor, q_row: RowOfQ, sampling: DraftSampling, prefix: torch.Tensor
) -> torch.Tensor:
    """``h_1..h_S``: float32 ``[B, S]``."""
    accept = prefix.clone()
    for i in range(prefix.shape[1] - 1):
        reach = prefix[:, i]
        mass = residual(p, draft_tokens, q_row, sampling, i + 1, reach).sum(-1)
        # At P_i = 1 the quotient is 1 for any mass, and 0 / 0 when the next p and q are equal: 1 as well, as then
        # P_{i+1} = 1 and a longer prefix decides.
        accept[:, i] = torch.where(reach >= 1, 1.0, mass / (mass + 1 - reach))
    return accept


def _longest(accepted: torch.Tensor) -> torch.Tensor:
    """Length of the longest accepted prefix, which need not have accepted shorter ones: bool ``[B, S]`` -> int32."""
    length = torch.arange(accepted.shape[1] + 1, dtype=torch.int32, device=accepted.device)
    return (F.pad(accepted.int(), (1, 0)) * length).amax(1)
