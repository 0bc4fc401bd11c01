"""The shapes timed, and the bytes their rollouts cannot avoid reading."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ModelShape:
    """A Domino drafter: H, V, G, R, S and its weights' dtype; proposals 1..prefix are uncorrected."""

    name: str
    hidden: int
    vocab: int
    num_units: int = 1024
    rank: int = 256
    num_proposals: int = 15
    prefix: int = 1
    dtype: torch.dtype = torch.bfloat16

    @property
    def w2_bytes(self) -> int:
        return self.dtype.itemsize * self.vocab * self.rank

    def floor_bytes(self, batch: int) -> int:
        """Device-memory bytes of an exact rollout: W2 once per corrected proposal, every base logit once.

        The GRU and projector weights fit the L2 and are left out: 32 MB for Qwen3-8B.
        """
        corrected = self.num_proposals - self.prefix
        return corrected * self.w2_bytes + self.num_proposals * batch * self.dtype.itemsize * self.vocab

    def floor_us(self, batch: int, bandwidth: float) -> float:
        """Microseconds at ``bandwidth`` bytes per second."""
        return self.floor_bytes(batch) / bandwidth * 1e6


SHAPES = {
    shape.name: shape
    for shape in (
        ModelShape("qwen3-4b", hidden=2560, vocab=151936),
        ModelShape("qwen3-8b", hidden=4096, vocab=151936),
        ModelShape("27b-class", hidden=5120, vocab=248320),
    )
}
BATCHES = (1, 2, 4, 8, 16, 32, 64)
ASSUMED_BANDWIDTH = 3.0e12
"""Bytes per second: an H100 SXM's measured copy, for machines that cannot measure."""
