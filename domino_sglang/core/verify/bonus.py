"""The residual of a rejection, and the bonus token drawn from it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from domino_sglang.core.head import DraftSampling
from domino_sglang.core.random_numbers import STREAM_BONUS, counter_key, exponential
from domino_sglang.core.verify.draft_rows import RowOfQ, rows_at

BonusOf = Callable[[torch.Tensor, torch.Tensor, RowOfQ, DraftSampling, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""``(p, draft_tokens, q_row, sampling, accept_len, scale) -> int64 [B]``, what :func:`bonus_token` computes."""

# A random number takes 16 bytes while it is made: 4M of them are 67 MB at once.
RACE_ELEMENTS = 1 << 22


def residual(
    p: torch.Tensor,
    draft_tokens: torch.Tensor,
    q_row: RowOfQ,
    sampling: DraftSampling,
    index: torch.Tensor | int,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """``max(scale * p - q, 0)`` at one position of each request, not normalised.

    Args:
        p: float32 ``[B, S+1, V]``.
        draft_tokens: int64 ``[B, S]``.
        q_row: rows of q; a row narrower or wider than V (padded vocabularies) is read as zero outside.
        sampling: requests with temperature 0 drafted greedily: their q is the point mass at the drafted token.
        index: the position, 0..S, one for all or int64 ``[B]``. Nothing was drafted at position S: there q is zero, and
            the residual is p.
        scale: float32 ``[B]``; 1 when None.

    Returns:
        float32 ``[B, V]``, finite and not negative. NaN counts as no mass.
    """
    proposals, vocab = draft_tokens.shape[1], p.shape[-1]
    if proposals == 0:
        return _finite(p[:, 0])
    batch = torch.arange(p.shape[0], device=p.device)
    index_of_each = torch.full_like(batch, index) if isinstance(index, int) else index.long()
    drafted = index_of_each < proposals
    point_mass = sampling.temperature <= 0
    read = index if isinstance(index, int) else index_of_each.clamp(max=proposals - 1)

    mass = _finite(rows_at(p, index if isinstance(index, int) else index_of_each))
    if scale is not None:
        mass = mass * scale[:, None]
    q = _as_wide_as(_finite(q_row(read)), vocab)
    mass = (mass - torch.where((drafted & ~point_mass)[:, None], q, 0.0)).clamp_(min=0)
    # Against a point mass, scale * p(x) - 1 is never positive: the drafted token leaves, all else stays.
    token = draft_tokens[batch, index_of_each.clamp(max=proposals - 1)].long().clamp(0, vocab - 1)
    kept = torch.where(drafted & point_mass, 0.0, mass[batch, token])
    return mass.scatter_(1, token[:, None], kept[:, None])


def bonus_token(
    p: torch.Tensor,
    draft_tokens: torch.Tensor,
    q_row: RowOfQ,
    sampling: DraftSampling,
    accept_len: torch.Tensor,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """The token after the accepted ones, int64 ``[B]``: drawn from the residual at the first rejection.

    Arguments as of :func:`residual`; ``accept_len`` ``[B]`` is its index.
    """
    mass = residual(p, draft_tokens, q_row, sampling, accept_len, scale)
    return draw_bonus(mass, p, accept_len, sampling)


def draw_bonus(mass: torch.Tensor, p: torch.Tensor, accept_len: torch.Tensor, sampling: DraftSampling) -> torch.Tensor:
    """Draw the bonus token from ``mass / mass.sum()``: int64 ``[B]``.

    Args:
        mass: float32 ``[B, V]``, from :func:`residual`.
        p: float32 ``[B, S+1, V]``.
        accept_len: ``[B]``.
    """
    # A residual without mass means p <= q everywhere, hence p = q, and then a rejection has probability zero: only
    # rounding brings us here, as often as rounding is large (about 1e-7). Any choice on this event changes the output
    # by no more than its probability. p is the one that also keeps what must never break: a token the target cannot
    # produce (grammar, top-k) is not produced.
    empty = mass.amax(-1, keepdim=True) <= 0
    mass = torch.where(empty, _finite(rows_at(p, accept_len.long())), mass)
    return race(mass, sampling, accept_len)


def race(mass: torch.Tensor, sampling: DraftSampling, index: torch.Tensor) -> torch.Tensor:
    """Exponential race: token v arrives at time ``Exp(1)_v / mass_v`` and the first one wins, which draws from mass.

    The noise belongs to (seed, position, index, token id), so neither the batch nor padded columns change a draw. A
    token without mass never wins, unless no token has any: then token 0 does, so that a row of NaN stays a legal id.
    """
    key = counter_key(sampling.seed, sampling.position, index.long(), STREAM_BONUS)
    low, high = key[0][:, None], key[1][:, None]
    batch, vocab = mass.shape
    step = max(1, RACE_ELEMENTS // max(batch, 1))
    best = mass.new_full((batch,), -1.0)
    winner = torch.zeros(batch, dtype=torch.int64, device=mass.device)
    for start in range(0, vocab, step):
        stop = min(start + step, vocab)
        noise = exponential((low, high), torch.arange(start, stop, device=mass.device))
        score, token = (mass[:, start:stop] / noise).max(-1)
        winner = torch.where(score > best, token + start, winner)
        best = torch.maximum(best, score)
    return winner


def _finite(x: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def _as_wide_as(q: torch.Tensor, vocab: int) -> torch.Tensor:
    return q[:, :vocab] if q.shape[1] >= vocab else F.pad(q, (0, vocab - q.shape[1]))
