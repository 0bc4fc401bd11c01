"""The low-rank projector's first layer: the z half for all proposals at once, the state half and SiLU per proposal.

``c_j = SiLU(W1_z z_j + W1_s s_{j-1})``. Source: arXiv 2605.29707, section 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from domino_kernels.ops.contract import contract


@triton.jit
def row_products(
    x_rows,
    row_mask,
    w_rows,
    out_mask,
    depth,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Float32 ``[BLOCK_N, BLOCK_M]``: every weight row times every activation row (row pointers are given)."""
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in tl.range(0, depth, BLOCK_K, num_stages=NUM_STAGES):
        k = start + tl.arange(0, BLOCK_K)
        w = tl.load(
            w_rows[:, None] + k[None, :],
            mask=out_mask[:, None] & (k < depth)[None, :],
            other=0.0,
            eviction_policy="evict_last",
        )
        x = tl.load(x_rows[None, :] + k[:, None], mask=row_mask[None, :] & (k < depth)[:, None], other=0.0)
        acc = contract(w, x, acc, USE_DOT, UPCAST)
    return acc


@triton.jit(do_not_specialize=["batch", "num_proposals"])
def project_hidden_kernel(
    z_ptr,
    stride_z_b,
    stride_z_s,
    w1_ptr,
    stride_w1,
    out_ptr,
    batch,
    num_proposals,
    hidden,
    rank,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """``W1_z z`` for all B x S rows: ``z [B, S, H]`` (strided) -> float32 ``[B, S, R]``.

    Grid ``(row blocks, rank blocks)``.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = m < batch * num_proposals
    rows = z_ptr + (m // num_proposals).to(tl.int64) * stride_z_b + (m % num_proposals).to(tl.int64) * stride_z_s
    acc = row_products(
        rows, row_mask, w1_ptr + n.to(tl.int64) * stride_w1, n < rank, hidden,
        BLOCK_M, BLOCK_N, BLOCK_K, USE_DOT, UPCAST, NUM_STAGES,
    )  # fmt: skip
    out = out_ptr + m.to(tl.int64)[None, :] * rank + n[:, None]
    tl.store(out, acc, mask=(n < rank)[:, None] & row_mask[None, :])


@triton.jit(do_not_specialize=["j", "batch", "num_proposals"])
def project_kernel(
    j,
    z_part_ptr,
    state_ptr,
    stride_state,
    w1_state_ptr,
    stride_w1,
    correction_ptr,
    batch,
    num_proposals,
    num_units,
    rank,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """``c_j`` of one block of ranks and requests, from slot ``j % 2`` of the state, into ``[B, S, R]``.

    Grid ``(batch blocks, rank blocks)``.
    """
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = b < batch
    mask = (n < rank)[:, None] & row_mask[None, :]
    state = state_ptr + (j % 2) * stride_state + b.to(tl.int64) * num_units
    acc = row_products(
        state, row_mask, w1_state_ptr + n.to(tl.int64) * stride_w1, n < rank, num_units,
        BLOCK_B, BLOCK_N, BLOCK_K, USE_DOT, UPCAST, NUM_STAGES,
    )  # fmt: skip
    at = (b.to(tl.int64) * num_proposals + j)[None, :] * rank + n[:, None]
    acc += tl.load(z_part_ptr + at, mask=mask, other=0.0)
    acc = acc * tl.sigmoid(acc)
    tl.store(correction_ptr + at, acc.to(correction_ptr.dtype.element_ty), mask=mask)


def project_reference(z: torch.Tensor, state: torch.Tensor, w1: torch.Tensor) -> torch.Tensor:
    """``SiLU(W1 [z ; s])`` in float32: ``z [..., H]``, ``state [..., G]``, ``w1 [R, H + G]`` -> ``[..., R]``."""
    return F.silu(F.linear(torch.cat((z, state.to(z.dtype)), -1).float(), w1.float()))
