"""Noise that draft and target share, so that one rule accepts greedy and sampled proposals alike.

The token at an absolute position is ``argmax_v(logits_v / temperature + g(seed, position, v))`` with Gumbel noise g:
a draw from the softmax (Gumbel-max), which depends on the target and the seed alone. A drafter that adds the same noise
to its own logits proposes the same token wherever the two agree well enough, and accept-if-equal keeps the target's
text exactly, whatever was drafted. Source: Daliri et al., arXiv 2408.07978.

The numbers are those of SGLang's seeded sampler (``sglang.srt.layers.sampler.multinomial_with_seed`` over
``murmur_hash32``), so that a seed gives the text that plain SGLang gives under ``--enable-deterministic-inference``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

MASK32 = 0xFFFFFFFF


def _mix(h: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """One block of MurmurHash3 (x86, 32 bits), on 32-bit values held in int64."""
    key = _rotate(key * 0xCC9E2D51 & MASK32, 15) * 0x1B873593 & MASK32
    return (_rotate(h ^ key, 13) * 5 + 0xE6546B64) & MASK32


def _rotate(x: torch.Tensor, by: int) -> torch.Tensor:
    return ((x << by) | (x >> (32 - by))) & MASK32


def murmur_hash32(seed: torch.Tensor, position: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """32 hashed bits of each (seed, position, token), in int64.

    Args:
        seed: int64, any 64-bit value; ``position``, ``token``: int64, 32 bits of each count. All broadcast together.
    """
    # Products of two 32-bit values leave the range of int64: they wrap, and their low bits are right.
    h = _mix(torch.zeros_like(seed), seed & MASK32)
    h = _mix(h, (seed >> 32) & MASK32)
    h = _mix(h, position & MASK32)
    h = _mix(h, token & MASK32) ^ 16
    h = (h ^ (h >> 16)) * 0x85EBCA6B & MASK32
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & MASK32
    return h ^ (h >> 16)


def gumbel(seed: torch.Tensor, position: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """float64 Gumbel noise, about -3.1 to 22.2, of each (seed, position, token); all int64, broadcast together.

    ``position`` is that of the token *before* the one that is drawn, as SGLang counts it.
    """
    x = murmur_hash32(seed, position, token).double() / MASK32
    return x.log_().clamp_(min=torch.finfo(torch.float64).min, max=-(2.0**-32)).neg_().log_().neg_()


@functools.lru_cache(maxsize=8)
def _token_keys(first: int, number: int, device: torch.device) -> torch.Tensor:
    """What MurmurHash3 makes of a token id before it meets the rest, of a whole vocabulary: int32 ``[number]``."""
    token = torch.arange(first, first + number, device=device)
    return (_rotate(token * 0xCC9E2D51 & MASK32, 15) * 0x1B873593 & MASK32).to(torch.int32)


def hash_bits(seed: torch.Tensor, position: torch.Tensor, first: int, number: int) -> torch.Tensor:
    """:func:`murmur_hash32` of ``number`` tokens from ``first`` on: int64 ``[...]`` twice -> int32 ``[..., number]``.

    In int32, whose products wrap, and in place: several times as fast over a whole vocabulary on a CPU.
    """
    h = _mix(_mix(_mix(torch.zeros_like(seed), seed & MASK32), (seed >> 32) & MASK32), position & MASK32)
    bits = h.to(torch.int32)[..., None] ^ _token_keys(first, number, seed.device)
    high = (bits >> 19).bitwise_and_(0x1FFF)  # a shift of int32 copies the sign, and the mask takes the copies away
    bits.bitwise_left_shift_(13).bitwise_or_(high).mul_(5).add_(0xE6546B64 - 2**32).bitwise_xor_(16)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
        torch.bitwise_right_shift(bits, shift, out=high)
        bits.bitwise_xor_(high.bitwise_and_((1 << (32 - shift)) - 1))
        if factor is not None:
            bits.mul_(factor - 2**32)
    return bits


# How far gumbel32 may lie from the noise itself, where it is largest: at hashes close to 0.
GUMBEL32_ERROR = 0.35


def gumbel32(bits: torch.Tensor) -> torch.Tensor:
    """float32 Gumbel noise of hashed bits (int32), within :data:`GUMBEL32_ERROR` of :func:`gumbel`, mostly 1e-5."""
    # From 1 - x, which floats resolve where x is close to 1 and the noise large.
    rest = bits.bitwise_not().float()
    rest = torch.where(rest < 0, rest + 2.0**32, rest).mul_(2.0**-32).clamp_(2.0**-32, 1 - 2.0**-24)
    noise = rest.neg_().log1p_().neg_().log_().neg_()
    return noise.masked_fill_(bits == 0, -torch.inf)


@dataclass(frozen=True)
class SharedNoise:
    """How each request of a batch is sampled.

    Attributes:
        temperature: float32 ``[B]``; 0 is greedy, without noise.
        seed: int64 ``[B]``, one for the life of a request.
        position: int64 ``[B]``, of the last committed token.
    """

    temperature: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor

    def for_drafts(self, ahead: int, first: int, number: int) -> torch.Tensor:
        """``temperature * g`` to rank proposals with, to be added to logits as they are: float32 ``[B, 1, number]``.

        The argmax is that of ``logits / temperature + g``; and as the temperature goes to zero, the softmax becomes
        that of the logits, so that drafts of all requests are ranked alike. Not exact: no text rests on it.

        Args:
            ahead: how far the token *before* the drawn one stands behind the last committed one.
            first, number: ids of the columns.
        """
        noise = gumbel32(hash_bits(self.seed, self.position + ahead, first, number)).clamp_(min=-800.0)
        return noise.mul_(self.temperature[:, None])[:, None]

    def choose(self, scores: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
        """The target's token, the lowest id of equal ones: ``[B, N, V]`` -> int64 ``[B, N]``.

        Exactly ``(scores + g).argmax(-1)`` with g in float64; but g is computed for the few tokens alone that
        :func:`gumbel32` leaves in question.

        Args:
            scores: float32 logits over the temperature, with filters applied (-inf).
            ahead: int64 ``[B, N]``, as in :meth:`for_drafts`.
        """
        position = self.position[:, None] + ahead
        seed = self.seed[:, None].expand_as(position)
        rough = gumbel32(hash_bits(seed, position, 0, scores.shape[-1])).add_(scores).flatten(0, 1)
        best = rough.amax(-1, keepdim=True)
        # Two errors of the noise, and the rounding of a sum in float32.
        open_ = ~(rough < best - 2 * GUMBEL32_ERROR - 1e-6 * best.abs())
        row, token = open_.nonzero(as_tuple=True)
        exact = scores.flatten(0, 1)[row, token].double() + gumbel(seed.flatten()[row], position.flatten()[row], token)
        highest = exact.new_full((len(rough),), -torch.inf).scatter_reduce_(0, row, exact, "amax")
        token = torch.where(exact == highest[row], token, scores.shape[-1])
        return (
            torch.full_like(position, scores.shape[-1])
            .flatten()
            .scatter_reduce_(0, row, token, "amin")
            .view_as(position)
        )
