"""Every kernel becomes a cubin for every architecture, without a GPU: registers, spills and shared memory are read."""

from __future__ import annotations

import pytest
import torch

from domino_kernels.plan import Shape, make_plan
from domino_kernels.resources import DEVICES, HeadShape, KernelResources, compile_launch, record_bonus, record_launches

QWEN3_8B = HeadShape()
SMALL = HeadShape(hidden=576, vocab=49152, num_units=192, rank=64, num_proposals=7)
ODD = HeadShape(hidden=7, vocab=1023, num_units=5, rank=3, num_proposals=2)
ONES = HeadShape(hidden=1, vocab=1, num_units=1, rank=1, num_proposals=1)

CASES = [
    # On every architecture: the two code paths (multiply-sum, tensor cores), each variant.
    *[
        (arch, dict(batch=batch, variant=variant, sampled=True))
        for arch in DEVICES
        for batch in (1, 64)
        for variant in ("fused", "persistent")
    ],
    # The rest where it is cheapest to be thorough: sm_90.
    (90, dict(batch=1, variant="fused")),
    (90, dict(batch=2, variant="persistent", sampled=True)),
    (90, dict(batch=16, variant="persistent", sampled=True)),
    (100, dict(batch=2, variant="persistent", sampled=True)),
    (100, dict(batch=16, variant="persistent", sampled=True)),
    (120, dict(batch=16, variant="persistent", sampled=True)),
    (120, dict(batch=16, variant="fused", sampled=True)),
    (90, dict(batch=16, variant="fused", sampled=True)),
    (90, dict(batch=32, variant="fused", sampled=True)),
    (90, dict(batch=8, variant="fused", sharded=True)),
    (90, dict(batch=1, variant="fused", gate_table=torch.float32)),
    (90, dict(batch=16, variant="fused", gate_table=torch.bfloat16)),
    (90, dict(batch=4, variant="fused", shape=HeadShape(dtype=torch.float32))),
    (90, dict(batch=1, variant="fused", shape=HeadShape(dtype=torch.float16), sampled=True)),
    (90, dict(batch=4, variant="fused", shape=SMALL)),
    (90, dict(batch=3, variant="fused", shape=ODD)),
    (90, dict(batch=1, variant="persistent", shape=ONES, sampled=True)),
    (90, dict(batch=1, variant="fused", shape=ONES)),
    # A rank that no single tile holds, and the widest tiles on the smallest shared memory.
    (90, dict(batch=64, variant="fused", shape=HeadShape(rank=300), sampled=True)),
    (90, dict(batch=16, variant="persistent", shape=HeadShape(rank=300), sampled=True)),
    (120, dict(batch=64, variant="fused", shape=HeadShape(rank=512), sampled=True)),
    (120, dict(batch=1, variant="persistent", shape=HeadShape(dtype=torch.float32), sampled=True)),
    (120, dict(batch=4, variant="persistent", shape=HeadShape(dtype=torch.float32), sampled=True)),
]

BONUS_CASES = [
    *[(arch, batch, QWEN3_8B) for arch in DEVICES for batch in (1, 64)],
    (90, 16, QWEN3_8B),
    (90, 8, HeadShape(dtype=torch.float32)),
    (90, 1, HeadShape(dtype=torch.float16)),
    (90, 3, ODD),
    (120, 64, HeadShape(rank=512)),
]

RESERVED_SHARED = 1024
"""Bytes of shared memory that CUDA keeps for itself, per program; the multiprocessor has one such share more."""


@pytest.mark.parametrize(("arch", "options"), CASES, ids=lambda value: str(value) if isinstance(value, int) else None)
def test_compiles_without_spills(arch, options):
    options = dict(options)
    batch = options.pop("batch")
    for launch in record_launches(arch, batch, **options):
        found = compile_launch(launch, arch, batch, options["variant"], options.get("sampled", False))
        assert_fits(found)
        if found.kernel == "persistent":
            assert_all_resident(found, arch, batch, options.get("shape", QWEN3_8B))


@pytest.mark.parametrize(("arch", "batch", "shape"), BONUS_CASES)
def test_the_bonus_draw_compiles_without_spills(arch, batch, shape):
    (launch,) = record_bonus(arch, batch, shape)
    assert_fits(compile_launch(launch, arch, batch, "bonus", True))


def assert_fits(found: KernelResources) -> None:
    """One program has its registers, spills none, and finds its shared memory on the device."""
    print(
        f"sm_{found.arch} B={found.batch} {found.variant} {found.kernel}: {found.registers} registers, "
        f"{found.spilled} B spilled, {found.shared} B shared, {found.num_warps} warps"
    )
    assert found.cubin_bytes > 0
    assert found.spilled == 0, found
    assert found.registers * found.num_warps * 32 <= 65536, found
    assert found.shared <= DEVICES[found.arch].shared_memory, found


def assert_all_resident(found: KernelResources, arch: int, batch: int, shape: HeadShape) -> None:
    """A grid-wide barrier never opens for a program that waits for a place."""
    sizes = Shape(shape.hidden, shape.vocab, shape.num_units, shape.rank, shape.num_proposals, shape.dtype.itemsize)
    per_sm = make_plan(batch, sizes, DEVICES[arch], "persistent").num_programs / DEVICES[arch].num_sms
    # For any register count, so that another compiler version changes nothing.
    assert per_sm * found.num_warps * 32 * 256 <= 65536, found
    assert per_sm * (found.shared + RESERVED_SHARED) <= DEVICES[arch].shared_memory + RESERVED_SHARED, found


def test_a_call_launches_these_kernels():
    launches = record_launches(90, 1, shape=SMALL)
    names = {launch.kernel.__name__ for launch in launches}
    assert names == {"project_hidden_kernel", "scan_kernel", "gru_kernel", "project_kernel", "finalize_kernel"}
