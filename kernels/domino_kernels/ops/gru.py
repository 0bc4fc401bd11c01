"""One GRU step from the previous token: gather its input, both GEMVs, gates, new state.

Source: PyTorch's ``gru_cell`` (gate order r, z, n); arXiv 2605.29707, section 3.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from domino_kernels.ops.contract import contract
from domino_kernels.ops.ordering import token_of


@triton.jit
def gate_products(
    x_rows,
    row_mask,
    w_ptr,
    stride_w,
    units,
    unit_mask,
    num_units,
    depth,
    BLOCK_B: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_K: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Three float32 ``[BLOCK_G, BLOCK_B]``: rows ``units``, ``G + units``, ``2G + units`` of ``w`` times the inputs."""
    r = tl.zeros([BLOCK_G, BLOCK_B], tl.float32)
    z = tl.zeros([BLOCK_G, BLOCK_B], tl.float32)
    n = tl.zeros([BLOCK_G, BLOCK_B], tl.float32)
    rows = w_ptr + units.to(tl.int64)[:, None] * stride_w
    gate = tl.cast(num_units, tl.int64) * stride_w
    for start in tl.range(0, depth, BLOCK_K, num_stages=NUM_STAGES):
        k = start + tl.arange(0, BLOCK_K)
        mask = unit_mask[:, None] & (k < depth)[None, :]
        x = tl.load(x_rows[None, :] + k[:, None], mask=row_mask[None, :] & (k < depth)[:, None], other=0.0)
        # Read again for the next proposal while W2 streams past: ask the L2 to keep them.
        w_r = tl.load(rows + k[None, :], mask=mask, other=0.0, eviction_policy="evict_last")
        w_z = tl.load(rows + gate + k[None, :], mask=mask, other=0.0, eviction_policy="evict_last")
        w_n = tl.load(rows + 2 * gate + k[None, :], mask=mask, other=0.0, eviction_policy="evict_last")
        r = contract(w_r, x, r, USE_DOT, UPCAST)
        z = contract(w_z, x, z, USE_DOT, UPCAST)
        n = contract(w_n, x, n, USE_DOT, UPCAST)
    return r, z, n


@triton.jit(do_not_specialize=["j", "batch"])
def gru_kernel(
    j,
    bonus_ptr,
    key_ptr,
    input_ptr,
    stride_input,
    w_ih_ptr,
    stride_w_ih,
    w_hh_ptr,
    stride_w_hh,
    b_ih_ptr,
    b_hh_ptr,
    state_ptr,
    stride_state,
    batch,
    hidden,
    num_units,
    HAS_BIAS: tl.constexpr,
    GATHER: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_K: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """State ``s_j`` of one block of units and one block of requests; ``j`` counts proposals from 0.

    Grid ``(batch blocks, unit blocks)``. Reads ``s_{j-1}`` from slot ``(j + 1) % 2`` of ``state_ptr`` (float32
    ``[2, max_batch, G]``), writes slot ``j % 2``. ``key_ptr`` int64 ``[S, B]`` holds the chosen tokens
    (``ops.ordering``); by them, and by ``bonus_ptr`` int64 ``[B]`` for ``j`` = 0, rows of ``input_ptr`` ``[V, H]`` are
    gathered. Without ``GATHER`` the inputs are one row a request, already embedded: ``[B, H]``.
    """
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    units = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)
    row_mask = b < batch
    unit_mask = units < num_units
    mask = unit_mask[:, None] & row_mask[None, :]
    row = b.to(tl.int64)
    if GATHER:
        if j == 0:
            row = tl.load(bonus_ptr + b, mask=row_mask, other=0)
        else:
            row = token_of(tl.load(key_ptr + (j - 1) * batch + b, mask=row_mask, other=-1))
    i_r, i_z, i_n = gate_products(
        input_ptr + row * stride_input, row_mask, w_ih_ptr, stride_w_ih, units, unit_mask, num_units, hidden,
        BLOCK_B, BLOCK_G, BLOCK_K, USE_DOT, UPCAST, NUM_STAGES,
    )  # fmt: skip
    old = state_ptr + ((j + 1) % 2) * stride_state + b.to(tl.int64) * num_units
    # The state is zero before the bonus token is read: a loop of no turns instead of a cleared buffer.
    depth = tl.where(j == 0, 0, num_units)
    h_r, h_z, h_n = gate_products(
        old, row_mask, w_hh_ptr, stride_w_hh, units, unit_mask, num_units, depth,
        BLOCK_B, BLOCK_G, BLOCK_K, USE_DOT, UPCAST, NUM_STAGES,
    )  # fmt: skip
    if HAS_BIAS:
        bias = b_ih_ptr + units
        i_r += tl.load(bias, mask=unit_mask, other=0.0).to(tl.float32)[:, None]
        i_z += tl.load(bias + num_units, mask=unit_mask, other=0.0).to(tl.float32)[:, None]
        i_n += tl.load(bias + 2 * num_units, mask=unit_mask, other=0.0).to(tl.float32)[:, None]
        bias = b_hh_ptr + units
        h_r += tl.load(bias, mask=unit_mask, other=0.0).to(tl.float32)[:, None]
        h_z += tl.load(bias + num_units, mask=unit_mask, other=0.0).to(tl.float32)[:, None]
        h_n += tl.load(bias + 2 * num_units, mask=unit_mask, other=0.0).to(tl.float32)[:, None]
    reset = tl.sigmoid(i_r + h_r)
    update = tl.sigmoid(i_z + h_z)
    new = 2.0 * tl.sigmoid(2.0 * (i_n + reset * h_n)) - 1.0  # tanh, which neither tl nor the interpreter has
    before = tl.load(old[None, :] + units[:, None], mask=mask & (j > 0), other=0.0)
    out = state_ptr + (j % 2) * stride_state + b.to(tl.int64)[None, :] * num_units + units[:, None]
    tl.store(out, new + update * (before - new), mask=mask)


def gru_reference(
    x: torch.Tensor,
    state: torch.Tensor,
    w_ih: torch.Tensor,
    w_hh: torch.Tensor,
    b_ih: torch.Tensor | None = None,
    b_hh: torch.Tensor | None = None,
) -> torch.Tensor:
    """Float32 GRU cell in plain PyTorch: ``x [B, H]``, ``state [B, G]`` -> ``[B, G]``."""
    biases = [None if b is None else b.float() for b in (b_ih, b_hh)]
    return torch.ops.aten.gru_cell(x.float(), state.float(), w_ih.float(), w_hh.float(), *biases)
