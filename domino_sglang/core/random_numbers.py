"""Counter-based random numbers: the same (seed, position, index, stream) gives the same number on every device.

Nothing is stored between steps, so a draw inside a CUDA graph, a draw on the CPU and a draw after a restart agree,
and what else is in the batch does not matter. The Triton kernels compute the same function.
"""

from __future__ import annotations

import torch

MASK32 = 0xFFFFFFFF

# What a random number is for; two uses of one counter must never share a stream.
STREAM_PROPOSAL = 1
STREAM_ACCEPT = 2
STREAM_BONUS = 3


def mix32(x: torch.Tensor) -> torch.Tensor:
    """Wellons' ``lowbias32`` finaliser on 32-bit values held in int64; any shape."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & MASK32
    x = (x ^ (x >> 15)) * 0x846CA68B & MASK32
    return x ^ (x >> 16)


def counter_key(
    seed: torch.Tensor, position: torch.Tensor, index: torch.Tensor | int, stream: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two 32-bit words (in int64) that name one row of random numbers.

    Args:
        seed: int64, any 64-bit value, broadcastable with ``position``.
        position: int64, position of the block's bonus token in its sequence.
        index: number of the proposal inside the block.
        stream: one of ``STREAM_*``.
    """
    low = mix32((seed & MASK32) ^ 0x9E3779B9)
    high = mix32(((seed >> 32) & MASK32) ^ low)
    low = mix32(low ^ (position & MASK32))
    high = mix32(high + low & MASK32)
    low = mix32(low + high + index * 8 + stream & MASK32)
    high = mix32(high ^ low ^ 0x85EBCA6B)
    return low, high


def uniform(key: tuple[torch.Tensor, torch.Tensor], element: torch.Tensor) -> torch.Tensor:
    """float32 uniforms in (0, 1], fine-grained near 0, one per ``element`` (int64, broadcast against the key)."""
    low, high = (word.to(torch.int32) for word in key)
    bits = _mix32_(_mix32_(element.to(torch.int32) ^ low).add_(high))
    return bits.to(torch.int64).bitwise_and_(MASK32).to(torch.float32).add_(0.5).mul_(2.0**-32)


def _mix32_(x: torch.Tensor) -> torch.Tensor:
    """:func:`mix32` in place on int32, whose products wrap: over twice as fast over a whole vocabulary on a CPU."""
    # A shift of int32 copies the sign, and the mask takes the copies away.
    shifted = (x >> 16).bitwise_and_(0xFFFF)
    x.bitwise_xor_(shifted).mul_(0x7FEB352D)
    torch.bitwise_right_shift(x, 15, out=shifted)
    x.bitwise_xor_(shifted.bitwise_and_(0x1FFFF)).mul_(0x846CA68B - 2**32)
    torch.bitwise_right_shift(x, 16, out=shifted)
    return x.bitwise_xor_(shifted.bitwise_and_(0xFFFF))


def exponential(key: tuple[torch.Tensor, torch.Tensor], element: torch.Tensor) -> torch.Tensor:
    """float32 draws from Exp(1). ``argmin(exponential / q)`` samples from q, and so does
    ``argmax(log q - log(exponential))``, the Gumbel-max form."""
    u = uniform(key, element)
    return -torch.log1p(-u.clamp(max=1.0 - 2.0**-24))
