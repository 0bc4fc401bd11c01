"""Features on one scale while training, folded into ``fc`` on export.

A few dimensions of a residual stream are hundreds of times larger than the rest, and nearly constant: they would drown
the others in ``hidden_norm(fc(features))`` and make any learning rate too large for their columns. Training reads
``features / rms`` instead; dividing the columns of ``fc`` by the same numbers gives back the very same function of raw
features, which is what a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from domino_sglang.hf import DominoDraftModel
from domino_sglang.training.loop.dataset import Example

SAMPLE_SEQUENCES = 16


def measure_scale(examples: Sequence[Example], features: Callable[[Sequence[Example]], torch.Tensor]) -> torch.Tensor:
    """``1 / rms`` of each feature dimension over the first sequences, float32 ``[K * H]`` on the CPU.

    First tokens are left out: models park attention there, with activations thousands of times larger.
    """
    total, count = torch.zeros(()), 0
    for example in examples[:SAMPLE_SEQUENCES]:
        rows = features([example])[0, 1:].float().cpu()
        total, count = total + rows.square().sum(0), count + len(rows)
    rms = (total / max(count, 1)).sqrt()
    # A dimension that is silent in the sample must not become infinitely loud.
    return 1.0 / rms.clamp(min=max(float(rms.median()) * 1e-2, 1e-6))


def fold_scale(drafter: DominoDraftModel, scale: torch.Tensor) -> DominoDraftModel:
    """Make a drafter trained on ``features * scale`` one that reads raw features, in place."""
    with torch.no_grad():
        drafter.fc.weight.mul_(scale.to(drafter.fc.weight))
    return drafter
