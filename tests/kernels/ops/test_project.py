"""The projector's first layer: its z half for all proposals, then its state half and SiLU."""

from __future__ import annotations

import pytest
import torch
import triton

from domino_kernels.device import INTERPRETED
from domino_kernels.ops.project import project_hidden_kernel, project_kernel, project_reference

# The result is stored in the weights' dtype.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
PROPOSALS = 3


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("batch", "hidden", "units", "rank", "block_b"),
    [(1, 40, 24, 8, 1), (2, 7, 5, 3, 2), (5, 40, 24, 33, 16), (19, 33, 17, 20, 16), (1, 1, 1, 1, 1)],
)
@pytest.mark.parametrize("j", [0, 1, 2])
def test_both_halves_together_are_one_layer(device, dtype, batch, hidden, units, rank, block_b, j):
    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size).to(device, dtype)

    w1 = normal(rank, hidden + units) / (hidden + units) ** 0.5
    z = normal(batch, PROPOSALS + 1, hidden)[:, 1:]
    state = torch.randn(2, batch, units, device=device)
    halves = torch.full((batch, PROPOSALS, rank), float("nan"), device=device)
    out = torch.zeros(batch, PROPOSALS, rank, dtype=dtype, device=device)
    tile = dict(UPCAST=INTERPRETED, NUM_STAGES=2)
    project_hidden_kernel[(triton.cdiv(batch * PROPOSALS, 16), triton.cdiv(rank, 16))](
        z, z.stride(0), z.stride(1), w1, w1.stride(0), halves, batch, PROPOSALS, hidden, rank,
        BLOCK_M=16, BLOCK_N=16, BLOCK_K=16, USE_DOT=True, **tile,
    )  # fmt: skip
    block_n = 16 if block_b >= 16 else 4
    project_kernel[(triton.cdiv(batch, block_b), triton.cdiv(rank, block_n))](
        j, halves, state, state.stride(0), w1[:, hidden:], w1.stride(0), out, batch, PROPOSALS, units, rank,
        BLOCK_B=block_b, BLOCK_N=block_n, BLOCK_K=16, USE_DOT=block_b >= 16, **tile,
    )  # fmt: skip
    want = project_reference(z[:, j], state[j % 2], w1)
    torch.testing.assert_close(out[:, j].float(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    others = [i for i in range(PROPOSALS) if i != j]
    assert (out[:, others] == 0).all()
