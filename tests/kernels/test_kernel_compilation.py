"""Every kernel becomes a cubin for every architecture, without a GPU: registers, spills and shared memory are read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from resources import DEVICES, KernelResources, compile_launch, record_bonus, record_launches
from rollout_shapes import SHAPES, ModelShape


def small(**sizes) -> ModelShape:
    return ModelShape("small", **dict(hidden=576, vocab=49152, num_units=192, rank=64, num_proposals=7) | sizes)


QWEN3_8B = SHAPES["qwen3-8b"]
ODD = small(hidden=7, vocab=1023, num_units=5, rank=3, num_proposals=2)
ONES = small(hidden=1, vocab=1, num_units=1, rank=1, num_proposals=1)

CASES = [
    # The two code paths, multiply-sum and tensor cores, on every architecture.
    *[(arch, batch, dict(sampled=True)) for arch in DEVICES for batch in (1, 64)],
    # The rest where it is cheapest to be thorough: sm_90.
    (90, 1, {}),
    (90, 2, dict(sampled=True)),
    (90, 16, dict(sampled=True)),
    (90, 32, dict(sampled=True)),
    (90, 8, dict(sharded=True)),
    (90, 4, dict(shape=replace(QWEN3_8B, dtype=torch.float32))),
    (90, 1, dict(shape=replace(QWEN3_8B, dtype=torch.float16), sampled=True)),
    (90, 4, dict(shape=small())),
    (90, 3, dict(shape=ODD)),
    (90, 1, dict(shape=ONES, sampled=True)),
    (90, 1, dict(shape=ONES)),
    # A rank that no single tile holds, and the widest tiles on the smallest shared memory.
    (90, 64, dict(shape=replace(QWEN3_8B, rank=300), sampled=True)),
    (120, 16, dict(sampled=True)),
    (120, 64, dict(shape=replace(QWEN3_8B, rank=512), sampled=True)),
    (120, 4, dict(shape=replace(QWEN3_8B, dtype=torch.float32), sampled=True)),
]

BONUS_CASES = [
    *[(arch, batch, QWEN3_8B) for arch in DEVICES for batch in (1, 64)],
    (90, 16, QWEN3_8B),
    (90, 8, replace(QWEN3_8B, dtype=torch.float32)),
    (90, 1, replace(QWEN3_8B, dtype=torch.float16)),
    (90, 3, ODD),
    (120, 64, replace(QWEN3_8B, rank=512)),
]


@pytest.mark.parametrize(("arch", "batch", "options"), CASES)
def test_compiles_without_spills(arch, batch, options):
    for launch in record_launches(arch, batch, **options):
        assert_fits(compile_launch(launch, arch, batch))


@pytest.mark.parametrize(("arch", "batch", "shape"), BONUS_CASES)
def test_the_bonus_draw_compiles_without_spills(arch, batch, shape):
    (launch,) = record_bonus(arch, batch, shape)
    assert_fits(compile_launch(launch, arch, batch))


def assert_fits(found: KernelResources) -> None:
    """One program has its registers, spills none, and finds its shared memory on the device."""
    print(
        f"sm_{found.arch} B={found.batch} {found.kernel}: {found.registers} registers, "
        f"{found.spilled} B spilled, {found.shared} B shared, {found.num_warps} warps"
    )
    assert found.cubin_bytes > 0
    assert found.spilled == 0, found
    assert found.registers * found.num_warps * 32 <= 65536, found
    assert found.shared <= DEVICES[found.arch].shared_memory, found


def test_a_call_launches_these_kernels():
    launches = record_launches(90, 1, shape=small())
    names = {launch.kernel.__name__ for launch in launches}
    assert names == {"project_hidden_kernel", "scan_kernel", "gru_kernel", "project_kernel", "finalize_kernel"}
