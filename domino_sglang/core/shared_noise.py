"""Noise that draft and target share, so that one rule accepts greedy and sampled proposals alike.

The token at an absolute position is ``argmax_v(logits_v / temperature + g(seed, position, v))`` with Gumbel noise g:
a draw from the softmax (Gumbel-max), which depends on the target and the seed alone. A drafter that adds the same noise
to its own logits proposes the same token wherever the two agree well enough, and accept-if-equal keeps the target's
text exactly, whatever was drafted. Source: Daliri et al., arXiv 2408.07978.

The numbers are those of SGLang's seeded sampler (``sglang.srt.layers.sampler.multinomial_with_seed`` over
``murmur_hash32``), so that a seed gives the text that plain SGLang gives under ``--enable-deterministic-inference``.
"""

from __future__ import annotations

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

    def scaled(self, ahead: torch.Tensor | int, tokens: torch.Tensor) -> torch.Tensor:
        """``temperature * g``, to be added to logits as they are: float64 ``[B, N, len(tokens)]``.

        The argmax is that of ``logits / temperature + g``; and as the temperature goes to zero, the softmax becomes
        that of the logits, so that drafts of all requests are ranked alike.

        Args:
            ahead: int64 ``[B, N]``, or one number for all: how far the token *before* the drawn one stands behind the
                last committed one.
            tokens: int64, ids of the columns.
        """
        position = (self.position[:, None] + ahead)[..., None]
        return gumbel(self.seed[:, None, None], position, tokens).mul_(self.temperature[:, None, None])
