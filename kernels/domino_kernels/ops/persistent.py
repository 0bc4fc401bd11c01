"""The whole rollout in one cooperative launch: three grid-wide barriers per proposal instead of three launches.

Every program keeps its tiles of the vocabulary for all proposals. Source: arXiv 2605.29707, the fused loop.
"""

from __future__ import annotations

import triton
import triton.language as tl

from domino_kernels.ops.barrier import grid_barrier
from domino_kernels.ops.gru import gru_units
from domino_kernels.ops.project import project_units
from domino_kernels.ops.scan import scan_tiles


@triton.jit(do_not_specialize=["batch", "num_proposals", "prefix"])
def persistent_kernel(
    barrier_ptr,
    bonus_ptr,
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
    z_part_ptr,
    w1_state_ptr,
    stride_w1,
    base_ptr,
    stride_base_b,
    stride_base_s,
    stride_base_v,
    correction_ptr,
    w2_ptr,
    stride_w2,
    key_ptr,
    max_ptr,
    sum_ptr,
    temperature_ptr,
    seed_ptr,
    position_ptr,
    batch,
    num_proposals,
    prefix,
    vocab,
    hidden,
    num_units,
    rank,
    HAS_BIAS: tl.constexpr,
    INPUT: tl.constexpr,
    SAMPLED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BASE_BLOCK_V: tl.constexpr,
    BLOCK_R: tl.constexpr,
    WHOLE_RANK: tl.constexpr,
    BLOCK_G: tl.constexpr,
    GRU_BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PROJECT_BLOCK_K: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Grid ``(programs,)``, all resident. Arguments as in ``gru_units``, ``project_units`` and ``scan_tiles``."""
    pid = tl.program_id(0)
    num_programs = tl.num_programs(0)
    batch_blocks = tl.cdiv(batch, BLOCK_B)
    # The uncorrected proposals wait for no token: scan them all before the loop.
    for j in range(0, prefix):
        for batch_block in range(0, batch_blocks):
            scan_tiles(
                pid, num_programs, batch_block, j, base_ptr, stride_base_b, stride_base_s, stride_base_v,
                correction_ptr, w2_ptr, stride_w2, key_ptr, max_ptr, sum_ptr,
                temperature_ptr, seed_ptr, position_ptr, batch, num_proposals, vocab, 0, rank,
                False, SAMPLED, BLOCK_B, BASE_BLOCK_V, BLOCK_R, WHOLE_RANK, USE_DOT, UPCAST, NUM_STAGES,
            )  # fmt: skip
    target = num_programs
    grid_barrier(barrier_ptr, target)
    gru_items = batch_blocks * tl.cdiv(num_units, BLOCK_G)
    project_items = batch_blocks * tl.cdiv(rank, BLOCK_N)
    for j in range(0, num_proposals):
        for item in range(pid, gru_items, num_programs):
            gru_units(
                item // batch_blocks, item % batch_blocks, j, bonus_ptr, key_ptr, input_ptr, stride_input,
                w_ih_ptr, stride_w_ih, w_hh_ptr, stride_w_hh, b_ih_ptr, b_hh_ptr, state_ptr, stride_state,
                batch, hidden, num_units,
                HAS_BIAS, INPUT, BLOCK_B, BLOCK_G, GRU_BLOCK_K, USE_DOT, UPCAST, NUM_STAGES,
            )  # fmt: skip
        target += num_programs
        grid_barrier(barrier_ptr, target)
        if j >= prefix:
            for item in range(pid, project_items, num_programs):
                project_units(
                    item // batch_blocks, item % batch_blocks, j, z_part_ptr, state_ptr, stride_state,
                    w1_state_ptr, stride_w1, correction_ptr, batch, num_proposals, num_units, rank,
                    BLOCK_B, BLOCK_N, PROJECT_BLOCK_K, USE_DOT, UPCAST, NUM_STAGES,
                )  # fmt: skip
            target += num_programs
            grid_barrier(barrier_ptr, target)
            for batch_block in range(0, batch_blocks):
                scan_tiles(
                    pid, num_programs, batch_block, j, base_ptr, stride_base_b, stride_base_s, stride_base_v,
                    correction_ptr, w2_ptr, stride_w2, key_ptr, max_ptr, sum_ptr,
                    temperature_ptr, seed_ptr, position_ptr, batch, num_proposals, vocab, 0, rank,
                    True, SAMPLED, BLOCK_B, BLOCK_V, BLOCK_R, WHOLE_RANK, USE_DOT, UPCAST, NUM_STAGES,
                )  # fmt: skip
            target += num_programs
            grid_barrier(barrier_ptr, target)
