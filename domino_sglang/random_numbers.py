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
    low, high = key
    bits = mix32((mix32(element ^ low) + high) & MASK32)
    return (bits.to(torch.float32) + 0.5) * 2.0**-32


def exponential(key: tuple[torch.Tensor, torch.Tensor], element: torch.Tensor) -> torch.Tensor:
    """float32 draws from Exp(1). ``argmin(exponential / q)`` samples from q, and so does
    ``argmax(log q - log(exponential))``, the Gumbel-max form."""
    u = uniform(key, element)
    return -torch.log1p(-u.clamp(max=1.0 - 2.0**-24))
