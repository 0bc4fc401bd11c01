"""The best tokens of ``l + W2 c`` from a part of W2's bytes: the same tokens as a scan of all of it, provably.

W2 is rotated so that its energy lies in the first directions. Of these, every row keeps one byte each, and two bounds:
how far rounding has moved it, and the length of what was cut. A proposal reads this shadow, which says of every token
how high its score can be, and scores exactly only the tokens that can reach a score already found.
Sources: FEXIPRO (SIGMOD 2017) for the rotation and the Cauchy-Schwarz bound of the rest; LEMP (SIGMOD 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

TILE = 64
"""Tokens that are passed over or looked at together."""

KEPT_ENERGY = 0.9
"""Share of W2's squared length that the kept directions hold at least."""

LARGEST_SHARE = 0.25
"""Of W2's bytes in 16 bits: a shadow that needs more saves too little, and every token is scored."""

_ROUNDING = 2.0**-24
# No sum of products of numbers below this overflows; far above what a model computes.
_LARGEST_TRUSTED = 1e30
# Where float32 has no digits left, and hardware may round to zero.
_TINY = 2.0**-100


@dataclass(frozen=True)
class UpperBounds:
    """Numbers of at least 0 in one byte each, rounded up by at most 9% of each (or 1e-9 of the largest).

    Attributes:
        codes: uint8 ``[V]``.
        table: float32 ``[256]``, falling.
    """

    codes: torch.Tensor
    table: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> UpperBounds:
        """From float64 ``[V]``."""
        wanted = values.max() * 2.0 ** (-torch.arange(256, dtype=torch.float64, device=values.device) / 8)
        table = wanted.float()
        table = torch.where(table.double() < wanted, table.nextafter(torch.full_like(table, torch.inf)), table)
        codes = 255 - torch.searchsorted(table.flip(0).double(), values)
        return cls(codes.to(torch.uint8), table)

    @property
    def values(self) -> torch.Tensor:
        """float32 ``[V]``."""
        return self.table[self.codes.long()]


@dataclass(frozen=True)
class Shadow:
    """What is read of every row of W2 ``[V, R]``.

    Attributes:
        rotation: float64 ``[R, R]``, orthogonal, its columns by falling energy.
        rows: int8 ``[V, k]``: in the first k directions a row is ``rows * step``, give or take half a ``step``.
        step, cut: for each row; ``cut`` is the length of the row in the other directions.
        longest: length of the longest row.
    """

    rotation: torch.Tensor
    rows: torch.Tensor
    step: UpperBounds
    cut: UpperBounds
    longest: float

    @property
    def kept(self) -> int:
        """k."""
        return self.rows.shape[1]

    @property
    def bytes_per_row(self) -> int:
        return self.kept + 2

    def upper_products(self, correction: torch.Tensor) -> torch.Tensor:
        """What no float32 product ``W2 c``, summed in any order, exceeds: ``[B, R]`` -> float32 ``[B, V]``.

        NaN or infinite where nothing can be said.
        """
        rotated = correction.double() @ self.rotation
        length = correction.double().norm(dim=1)
        slack = arithmetic_slack(correction.shape[1], self.kept) * length
        # A row is at most 128 * sqrt(k) steps and its cut long: slack in proportion to the row, without its length.
        per_step = rotated[:, : self.kept].abs().sum(1) / 2 + slack * 128 * math.sqrt(self.kept)
        per_cut = rotated[:, self.kept :].norm(dim=1) + slack
        trusted = length * self.longest < _LARGEST_TRUSTED
        per_step, per_cut = (torch.where(trusted, x, torch.inf).float()[:, None] for x in (per_step, per_cut))
        products = rotated[:, : self.kept].float() @ self.rows.float().T
        return self.step.values * (products + per_step) + self.cut.values * per_cut + _TINY


def arithmetic_slack(rank: int, kept: int) -> float:
    """Times ``|W2_v| |c|``: how far rounding moves the exact product and the shadow's apart, with a factor 2 to spare.

    Any order of summing n products of float32 numbers errs by less than n roundings of the sum of their sizes.
    """
    return 2 * (rank + kept + 16) * _ROUNDING


def shadow_of(w2: torch.Tensor, kept: int | None = None) -> Shadow | None:
    """Build the shadow of ``w2 [V, R]``; None where every token is to be scored, because W2's spectrum is flat.

    Args:
        kept: k; None chooses it from the spectrum: whole words of 4 directions that hold :data:`KEPT_ENERGY`.
    """
    if not bool(w2.isfinite().all()):
        return None
    weight = w2.double()
    energy, rotation = torch.linalg.eigh(weight.T @ weight)
    energy, rotation = energy.flip(0).clamp(min=0), rotation.flip(1)
    rank = w2.shape[1]
    if kept is None:
        enough = int((energy.cumsum(0) < KEPT_ENERGY * energy.sum()).sum()) + 1
        kept = -(-enough // 4) * 4
        if kept + 2 > LARGEST_SHARE * 2 * rank:
            return None
    rotated = weight @ rotation
    step = UpperBounds.of(rotated[:, :kept].abs().amax(1) / 127)
    # 0 / 0 where all of W2 is zero.
    rows = (rotated[:, :kept] / step.values[:, None].double()).nan_to_num().round().clamp(-127, 127).to(torch.int8)
    cut = UpperBounds.of(rotated[:, kept:].norm(dim=1))
    return Shadow(rotation, rows, step, cut, float(weight.norm(dim=1).max()))


@dataclass(frozen=True)
class Best:
    """The best tokens of each row, best first.

    Attributes:
        tokens: int64 ``[B, n]``.
        scores: float32 ``[B, n]``.
        rescored: bool ``[B, V]``, which tokens were scored exactly because they could still win.
    """

    tokens: torch.Tensor
    scores: torch.Tensor
    rescored: torch.Tensor


@dataclass(frozen=True)
class Scores:
    """Scores ``(l + W2 c) / temperature - noise`` in float32, token by token.

    Attributes:
        base_logits: ``[B, V]``. correction: ``[B, R]``. w2: ``[V, R]``, or a rank's rows of it.
        temperature: float32 ``[B]``, above 0, or None for 1.
        noise: float32 ``[B, V]``, or None for 0.
    """

    base_logits: torch.Tensor
    correction: torch.Tensor
    w2: torch.Tensor
    temperature: torch.Tensor | None = None
    noise: torch.Tensor | None = None

    def of(self, row: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Exact, of pairs int64 ``[N]``, ``[N]``: a pair's score does not depend on what else is asked."""
        product = (self.w2[token].float() * self.correction[row].float()).sum(-1)
        return self._finished(product, row, token)

    def at_most(self, shadow: Shadow) -> torch.Tensor:
        """``[B, V]``: what the shadow says no score exceeds. Every step from product to score rounds monotonically."""
        batch, vocab = self.base_logits.shape
        rows = torch.arange(batch, device=self.w2.device)[:, None]
        return self._finished(
            shadow.upper_products(self.correction), rows, torch.arange(vocab, device=self.w2.device)[None]
        )

    def _finished(self, product: torch.Tensor, row: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        score = self.base_logits[row, token].float() + product
        if self.temperature is not None:
            score = score / self.temperature[row]
        return score if self.noise is None else score - self.noise[row, token]


def best_tokens(scores: Scores, shadow: Shadow | None, count: int = 1) -> Best:
    """The ``count`` best tokens of each row; of equal scores the lowest token first, NaN above all (``torch.argmax``).

    Args:
        shadow: of ``scores.w2``; None scores every token.
    """
    batch, vocab = scores.base_logits.shape
    able = torch.ones(batch, vocab, dtype=torch.bool, device=scores.w2.device)
    if shadow is not None:
        bound = scores.at_most(shadow)
        # NaN is no bound.
        able = ~(bound < _score_to_reach(scores, bound, count)[:, None])
    found = torch.full((batch, vocab), -torch.inf, device=scores.w2.device)
    row, token = able.nonzero(as_tuple=True)
    found[row, token] = scores.of(row, token)
    best, tokens = found.sort(dim=1, descending=True, stable=True)
    return Best(tokens[:, :count], best[:, :count], able)


def leaders(bound: torch.Tensor) -> torch.Tensor:
    """The most promising token of each tile: ``[B, V]`` -> int64 ``[B, tiles]``."""
    padding = -bound.shape[1] % TILE
    tiles = torch.nn.functional.pad(bound, (0, padding), value=-torch.inf).unflatten(1, (-1, TILE))
    return tiles.argmax(-1) + torch.arange(tiles.shape[1], device=bound.device) * TILE


def _score_to_reach(scores: Scores, bound: torch.Tensor, count: int) -> torch.Tensor:
    """``[B]``: the ``count``-th highest of the leaders' exact scores; the ``count``-th best is not below it."""
    tokens = leaders(bound)
    if tokens.shape[1] < count:
        return torch.full_like(bound[:, 0], -torch.inf)
    rows = torch.arange(bound.shape[0], device=bound.device)[:, None].expand_as(tokens)
    exact = scores.of(rows.flatten(), tokens.flatten()).view_as(tokens)
    return exact.nan_to_num(-torch.inf, torch.inf, -torch.inf).topk(count, dim=1).values[:, -1]
