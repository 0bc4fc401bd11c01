"""One GRU step against PyTorch's cell."""

from __future__ import annotations

import pytest
import torch
import triton

from domino_kernels.device import INTERPRETED
from domino_kernels.ops.gru import gru_kernel, gru_reference
from domino_kernels.ops.ordering import pack_reference

# The tensor cores round the state to the weights' dtype.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
PROPOSALS, VOCAB = 4, 50


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("batch", "hidden", "units", "block_b"),
    [(1, 40, 24, 1), (2, 7, 5, 2), (5, 40, 24, 16), (19, 33, 17, 16), (1, 1, 1, 1)],
)
@pytest.mark.parametrize(("j", "gather", "bias"), [(0, True, False), (3, True, True), (2, False, True)])
def test_it_is_pytorchs_cell(device, dtype, batch, hidden, units, block_b, j, gather, bias):
    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size).to(device, dtype)

    w_ih, w_hh = normal(3 * units, hidden) / hidden**0.5, normal(3 * units, units) / units**0.5
    b_ih, b_hh = (normal(3 * units), normal(3 * units)) if bias else (None, None)
    table, tokens = normal(VOCAB, hidden), torch.randint(VOCAB, (PROPOSALS + 1, batch), device=device)
    state = torch.randn(2, batch, units, device=device)
    before = state[(j + 1) % 2].clone() if j else torch.zeros(batch, units, device=device)
    keys = pack_reference(torch.randn(PROPOSALS, batch, device=device), tokens[1:])
    inputs = table if gather else table[tokens[j]]
    grid = (triton.cdiv(batch, block_b), triton.cdiv(units, 8))
    gru_kernel[grid](
        j, tokens[0], keys, inputs, inputs.stride(0), w_ih, w_ih.stride(0), w_hh, w_hh.stride(0),
        *((b_ih, b_hh) if bias else (w_ih, w_hh)), state, state.stride(0), batch, hidden, units,
        HAS_BIAS=bias, GATHER=gather, BLOCK_B=block_b, BLOCK_G=8 if block_b < 16 else 16, BLOCK_K=16,
        USE_DOT=block_b >= 16, UPCAST=INTERPRETED, NUM_STAGES=2,
    )  # fmt: skip
    want = gru_reference(table[tokens[j]], before, w_ih, w_hh, b_ih, b_hh)
    torch.testing.assert_close(state[j % 2], want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
