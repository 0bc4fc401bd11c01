"""The tiles of every kernel: decided once per batch-size bucket, from shapes and the device alone.

The numbers below are derived from byte counts for an H100 (132 SMs, about 3 TB/s: some 32 KB in flight per SM).
They are to be settled by measurement on a GPU with ``benchmarks/kernels/rollout.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_SUM_BATCH = 2
"""Up to this batch a multiply-sum replaces the tensor cores, whose smallest tile has 16 rows."""

LARGEST_BLOCK_B = 64
"""Requests that share one read of a W2 tile; beyond it the accumulators would spill."""

LARGEST_WHOLE_RANK = 256
"""Up to this R a tile of W2 holds whole rows, and the correction stays in registers for all tiles."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the head: H, V (this rank's rows), G, R, S, and bytes per weight."""

    hidden: int
    vocab: int
    num_units: int
    rank: int
    num_proposals: int
    element_size: int


@dataclass(frozen=True)
class Device:
    """What a plan depends on.

    Attributes:
        num_sms: multiprocessors.
        shared_memory: the largest opt-in per block, in bytes.
    """

    num_sms: int
    shared_memory: int


@dataclass(frozen=True)
class Tile:
    """``rows`` of a weight times ``depth`` of its columns; warps per program; software pipeline depth."""

    rows: int
    depth: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class LaunchPlan:
    """Tiles of each op for batches up to a power of two.

    Attributes:
        block_b: requests per program, a power of two.
        use_dot: tensor cores instead of a multiply-sum.
        base_rows: tokens per tile of an uncorrected scan, which holds no weights.
        scan, gru, project, hidden: tiles over V x R, G x H, R x G, R x H.
        hidden_rows: of the B x S rows of Z, how many share one tile of W1.
        num_programs: programs over the vocabulary.
    """

    block_b: int
    use_dot: bool
    base_rows: int
    scan: Tile
    gru: Tile
    project: Tile
    hidden: Tile
    hidden_rows: int
    num_programs: int


def bucket(batch: int) -> int:
    """Smallest power of two that holds ``batch``: plans, and so compilations, are shared inside it."""
    return next_power_of_2(batch)


def next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def make_plan(batch: int, shape: Shape, device: Device) -> LaunchPlan:
    """The plan for ``batch`` requests."""
    size = bucket(batch)
    use_dot = size > LARGEST_SUM_BATCH
    block_b = min(max(size, 16), LARGEST_BLOCK_B) if use_dot else size
    stages = 3 if device.shared_memory >= 160 * 1024 else 2
    scan = _scan_tile(shape, use_dot, block_b, stages, device)
    # 128 columns of two bytes: two whole cache lines per weight row and pipeline stage.
    narrow = 256 // shape.element_size
    # The z projection always takes the tensor cores: B x S rows share its weights.
    hidden = Tile(16, min(narrow, _depth(shape.hidden)), 4, stages)
    hidden_rows = min(64, max(16, next_power_of_2(size * shape.num_proposals)))
    if use_dot:
        # The gates' three accumulators fill the registers of four warps at 32 requests.
        gru = Tile(16, min(narrow, _depth(shape.hidden)), 8 if block_b >= 32 else 4, stages)
        project = Tile(16, min(narrow, _depth(shape.num_units)), 4, stages)
        per_sm = 2
    else:
        gru = Tile(8, min(256 // block_b, _depth(shape.hidden)), 4, stages)
        project = Tile(4, min(512 // block_b, _depth(shape.num_units)), 4, stages)
        per_sm = 4
    programs = min(-(-shape.vocab // scan.rows), device.num_sms * per_sm)
    # Noise is computed for every number of the tile at once: more of them spill (sm_120).
    base_rows = max(16, min(1024, (1024 if use_dot else 2048) // block_b))
    return LaunchPlan(block_b, use_dot, base_rows, scan, gru, project, hidden, hidden_rows, programs)


def _scan_tile(shape: Shape, use_dot: bool, block_b: int, stages: int, device: Device) -> Tile:
    """Keeps one tile of W2 at 16 to 32 KB, and the pipeline's tiles inside the shared memory."""
    whole = shape.rank <= LARGEST_WHOLE_RANK
    # A longer row is read in short pieces, or its addresses alone fill the registers.
    depth = max(16, next_power_of_2(shape.rank)) if whole else 64
    rows = (64 if use_dot else 32) * (LARGEST_WHOLE_RANK // depth if whole else 1)
    rows = max(16, min(128, rows * 2 // shape.element_size))
    while rows > 16 and stages * rows * depth * shape.element_size + block_b * depth * 4 > device.shared_memory:
        rows //= 2
    return Tile(rows, depth, 8 if use_dot and block_b >= 64 else 4, stages)


def _depth(columns: int) -> int:
    return max(16, next_power_of_2(columns))
