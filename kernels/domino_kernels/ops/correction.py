"""The low-rank correction of one tile of the vocabulary: ``W2[tile] @ c_j``, one column per request.

Source: arXiv 2605.29707, section 3.
"""

from __future__ import annotations

import triton
import triton.language as tl

from domino_kernels.ops.contract import contract


@triton.jit
def load_correction(c_rows, row_mask, rank, BLOCK_R: tl.constexpr, WHOLE_RANK: tl.constexpr):
    """``[BLOCK_R, B]`` of the R-vectors at ``c_rows`` (a pointer per request), once for all tiles.

    A rank that does not fit is read by :func:`correct_tile` part by part; what comes back is then a single zero.
    """
    if WHOLE_RANK:
        return _correction_part(c_rows, row_mask, tl.arange(0, BLOCK_R), rank)
    else:
        return tl.zeros([1, 1], c_rows.dtype.element_ty)


@triton.jit
def correct_tile(
    c,
    c_rows,
    row_mask,
    w_rows,
    tile_mask,
    rank,
    BLOCK_B: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_R: tl.constexpr,
    WHOLE_RANK: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """Float32 ``[BLOCK_V, BLOCK_B]``, zero where ``tile_mask`` or ``row_mask`` is false.

    ``c`` is what :func:`load_correction` returned, ``w_rows`` a pointer to each row of W2 in the tile.
    """
    r = tl.arange(0, BLOCK_R)
    correction = tl.zeros([BLOCK_V, BLOCK_B], tl.float32)
    if WHOLE_RANK:
        correction = contract(_w2_part(w_rows, tile_mask, r, rank), c, correction, USE_DOT, UPCAST)
    else:
        for start in tl.range(0, rank, BLOCK_R, num_stages=NUM_STAGES):
            k = start + r
            part = _correction_part(c_rows, row_mask, k, rank)
            correction = contract(_w2_part(w_rows, tile_mask, k, rank), part, correction, USE_DOT, UPCAST)
    return correction


@triton.jit
def _correction_part(c_rows, row_mask, k, rank):
    return tl.load(c_rows[None, :] + k[:, None], mask=row_mask[None, :] & (k < rank)[:, None], other=0.0)


@triton.jit
def _w2_part(w_rows, tile_mask, k, rank):
    return tl.load(
        w_rows[:, None] + k[None, :],
        mask=tile_mask[:, None] & (k < rank)[None, :],
        other=0.0,
        eviction_policy="evict_first",
    )
