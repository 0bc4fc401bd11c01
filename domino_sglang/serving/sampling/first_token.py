"""The first token of a seeded request, which SGLang's sampler draws after the prefill."""

from __future__ import annotations

import torch
from sglang.srt.layers.sampler import Sampler

from domino_sglang.core.devices import to_device
from domino_sglang.serving.sampling.seeds import draw_with_seed, seeded_rows
from domino_sglang.serving.sampling.target_distribution import filtered


class SeededFirstToken:
    """Makes ``sampling_seed`` hold for the first token as it does for every other.

    SGLang reads the seed only under ``--enable-deterministic-inference``; otherwise this draws the seeded rows again,
    from the same probabilities, with counter-based numbers.
    """

    def __init__(self, sampler: Sampler):
        self._sample_from_probs = sampler._sample_from_probs
        sampler._sample_from_probs = self

    def stage(self, batch) -> None:
        """Attach the seeds of a prefill batch to its sampling information, which the sampler gets to see."""
        info = batch.sampling_info
        rows = seeded_rows(batch.reqs)
        if not rows or info.sampling_seed is not None:
            return
        seeds = [batch.reqs[i].sampling_params.sampling_seed for i in rows]
        info.domino_seeds = tuple(to_device(some, torch.int64, info.device) for some in (rows, seeds))

    def __call__(self, probs, sampling_info, positions, simple_sampling_case):
        staged = getattr(sampling_info, "domino_seeds", None)
        if staged is None:
            return self._sample_from_probs(probs, sampling_info, positions, simple_sampling_case)
        rows, seeds = staged
        distribution = filtered(probs[:, None].float(), sampling_info)[rows, 0]
        drawn = draw_with_seed(distribution, seeds, positions[rows])
        tokens, capture = self._sample_from_probs(probs, sampling_info, positions, simple_sampling_case)
        tokens = tokens.clone()
        tokens[rows] = drawn.to(tokens.dtype)
        return tokens, capture
