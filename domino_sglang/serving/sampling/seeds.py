"""Seeds of the counter-based random numbers: a request's own, or fresh ones that all ranks agree on."""

from __future__ import annotations

from typing import Any

import torch

from domino_sglang.core.devices import to_device
from domino_sglang.core.random_numbers import STREAM_BONUS, counter_key, exponential

# What SGLang gives requests without a seed under --enable-deterministic-inference.
# Source: ``sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo.from_schedule_batch``.
DETERMINISTIC = 42


class SeedSource:
    """Gives every request of a batch a 64-bit seed for this step.

    Requests with SGLang's ``sampling_seed`` always get that one: their text repeats whatever else is in the batch.
    The others get numbers from a generator that every tensor-parallel rank starts alike, or all the same one.

    Args:
        seed: starts the generator.
        deterministic: as ``--enable-deterministic-inference``: unnamed seeds are :data:`DETERMINISTIC`.
    """

    def __init__(self, seed: int, device: torch.device | str, deterministic: bool = False):
        self.generator = torch.Generator().manual_seed(seed)
        self.device, self.deterministic = device, deterministic

    def draw(self, reqs: list[Any]) -> torch.Tensor:
        """int64 ``[B]``."""
        fresh = torch.randint(-(2**62), 2**62, (len(reqs),), generator=self.generator)
        if self.deterministic:
            fresh.fill_(DETERMINISTIC)
        for i, req in enumerate(reqs):
            if req.sampling_params.sampling_seed is not None:
                fresh[i] = req.sampling_params.sampling_seed
        return to_device(fresh, torch.int64, self.device)


def seeded_rows(reqs: list[Any]) -> list[int]:
    """Rows of the batch that name a ``sampling_seed`` and are sampled."""
    return [
        i
        for i, req in enumerate(reqs)
        if req.sampling_params.sampling_seed is not None and req.sampling_params.top_k > 1
    ]


def draw_with_seed(probs: torch.Tensor, seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Draw one token a row: ``[B, V]``, int64 ``[B]`` each -> int64 ``[B]``.

    ``position`` is that of the token *before* the drawn one, which no draft block's bonus token ever has.
    """
    low, high = counter_key(seed, position, 0, STREAM_BONUS)
    noise = exponential((low[:, None], high[:, None]), torch.arange(probs.shape[-1], device=probs.device))
    return (probs / noise).argmax(-1)
