"""The shapes of Qwen3-8B, too large for the interpreter: there test_rollout_grid.py has the same at small ones."""

from __future__ import annotations

import pytest
import torch
from rollout_cases import check, make_case


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_the_shapes_of_qwen3_8b(batch, device):
    case = make_case(
        batch=batch, hidden=4096, vocab=151936, units=1024, rank=256, proposals=15,
        dtype=torch.bfloat16, sampled=True, device=device,
    )  # fmt: skip
    check(case)
