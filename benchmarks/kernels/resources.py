"""What the compiler makes of every kernel, for any NVIDIA architecture, without a GPU.

The launches are recorded from a real :class:`DominoRollout` over meta tensors, so what is compiled here is what would
run: same tiles, same types, same specialisation of strides and pointers.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from rollout_shapes import SHAPES, ModelShape
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from domino_kernels import BonusDraw, DominoRollout, VocabShard
from domino_kernels.plan import Device
from domino_sglang.core.head import HeadWeights

DEVICES = {
    80: Device(num_sms=108, shared_memory=163 * 1024),
    90: Device(num_sms=132, shared_memory=227 * 1024),
    100: Device(num_sms=148, shared_memory=227 * 1024),
    120: Device(num_sms=170, shared_memory=99 * 1024),
}
"""Compute capability -> an A100, H100, B200 and RTX 5090."""

_TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


@dataclass(frozen=True)
class KernelResources:
    """One compiled kernel.

    Attributes:
        arch: compute capability times ten.
        batch: requests it was launched for.
        registers: per thread.
        spilled: bytes of stack and local memory per thread; these kernels have no other use for them.
        shared: bytes per program, fixed and dynamic together. num_warps: per program.
        cubin_bytes: size of the machine code.
    """

    kernel: str
    arch: int
    batch: int
    registers: int
    spilled: int
    shared: int
    num_warps: int
    cubin_bytes: int


@dataclass(frozen=True)
class Launch:
    """A recorded launch: the jitted function, and what determines its compilation."""

    kernel: Any
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], list]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return repr((self.kernel.__name__, self.signature, self.constants, self.attributes, self.options))


class _RecordedRollout(DominoRollout):
    """Runs nothing: notes each launch, for the device given."""

    def __init__(self, limits: Device, *args, **options):
        self._recorded_limits = limits
        self.launches: dict[str, Launch] = {}
        super().__init__(*args, **options)

    def _device_limits(self) -> Device:
        return self._recorded_limits

    def _launch(self, kernel, grid, *arguments, **options) -> None:
        launch = specialise(kernel, arguments, options)
        self.launches.setdefault(launch.key, launch)


def specialise(kernel, arguments: tuple, options: dict[str, Any]) -> Launch:
    """Types, constants and divisibility as Triton's launcher derives them from the arguments of a launch."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list] = {}
    names = {p.name for p in kernel.params}
    values = dict(zip((p.name for p in kernel.params), arguments, strict=False))
    values.update({k: v for k, v in options.items() if k in names})
    for index, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not parameter.do_not_specialize):
            signature[parameter.name] = "constexpr"
            constants[(index,)] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = _TYPES[value.dtype]
            aligned = value.storage_offset() * value.element_size() % 16 == 0
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0
        if aligned and not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return Launch(kernel, signature, constants, attributes, {k: v for k, v in options.items() if k not in names})


def record_launches(
    arch: int,
    batch: int,
    *,
    shape: ModelShape = SHAPES["qwen3-8b"],
    sampled: bool = False,
    sharded: bool = False,
) -> list[Launch]:
    """The distinct launches of one call with ``batch`` requests, on device ``arch``."""
    h, v, g, r = shape.hidden, shape.vocab, shape.num_units, shape.rank

    def empty(*size: int, dtype: torch.dtype = shape.dtype) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    rollout = _RecordedRollout(
        DEVICES[arch],
        HeadWeights(empty(3 * g, h), empty(3 * g, g), empty(r, h + g), empty(v, r)),
        embedding=empty(v, h),
        max_batch=batch,
        num_proposals=shape.num_proposals,
        pure_draft_prefix_len=shape.prefix,
        shard=VocabShard(0, lambda x: torch.stack((x, x))) if sharded else None,
    )
    sampling = RecordedSampling(batch) if sampled else None
    z, base = empty(batch, shape.num_proposals, h), empty(batch, shape.num_proposals, v)
    rollout(z, base, empty(batch, dtype=torch.int64), sampling)
    return list(rollout.launches.values())


class _RecordedBonus(BonusDraw):
    """Runs nothing: notes the launch, for the device given."""

    def __init__(self, limits: Device, w2: torch.Tensor):
        self._recorded_limits = limits
        self.launches: list[Launch] = []
        super().__init__(w2)

    def _device_limits(self) -> Device:
        return self._recorded_limits

    def _launch(self, kernel, grid, *arguments, **options) -> None:
        self.launches.append(specialise(kernel, arguments, options))


def record_bonus(arch: int, batch: int, shape: ModelShape = SHAPES["qwen3-8b"]) -> list[Launch]:
    """The launch that draws the bonus tokens of ``batch`` requests on device ``arch``."""
    v, r, s = shape.vocab, shape.rank, shape.num_proposals

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    draw = _RecordedBonus(DEVICES[arch], empty(v, r, dtype=shape.dtype))
    draw(
        empty(batch, s + 1, v),
        empty(batch, s, dtype=torch.int64),
        empty(batch, s, v, dtype=shape.dtype),
        empty(batch, s, r, dtype=shape.dtype),
        empty(batch, s),
        RecordedSampling(batch),
        empty(batch, dtype=torch.int64),
    )
    return draw.launches


class RecordedSampling:
    """Sampling arguments without data."""

    def __init__(self, batch: int):
        self.temperature = torch.empty(batch, device="meta")
        self.seed = torch.empty(batch, dtype=torch.int64, device="meta")
        self.position = torch.empty(batch, dtype=torch.int64, device="meta")


def compile_launch(launch: Launch, arch: int, batch: int) -> KernelResources:
    """Compile to a cubin for ``arch`` and read the machine code's resources.

    Raises:
        RuntimeError: the resources cannot be read; the tool's message follows.
    """
    source = ASTSource(launch.kernel, launch.signature, launch.constants, launch.attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(launch.options))
    report = _resource_usage(compiled.asm["cubin"])
    return KernelResources(
        kernel=_describe(launch),
        arch=arch,
        batch=batch,
        registers=_number(r"REG:(\d+)", report),
        spilled=_number(r"STACK:(\d+)", report) + _number(r"LOCAL:(\d+)", report),
        shared=compiled.metadata.shared,
        num_warps=compiled.metadata.num_warps,
        cubin_bytes=len(compiled.asm["cubin"]),
    )


def _describe(launch: Launch) -> str:
    names = [p.name for p in launch.kernel.params]
    flags = {names[i]: value for (i,), value in launch.constants.items()}
    name = launch.kernel.__name__.removesuffix("_kernel")
    return f"{name} uncorrected" if flags.get("CORRECTED") is False else name


def _resource_usage(cubin: bytes) -> str:
    # Read from the machine code itself: another run of ptxas may not use Triton's options.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cuobjdump cannot read the cubin: {done.stderr.strip()}")
    return done.stdout


def _number(pattern: str, report: str) -> int:
    found = re.search(pattern, report)
    if found is None:
        raise RuntimeError(f"cuobjdump reported no match of {pattern!r}: {report[:500]!r}; adapt resources.py")
    return int(found[1])
