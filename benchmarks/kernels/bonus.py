"""Times the bonus token of rejection sampling: the kernel and PyTorch, in one run over the same tensors.

    python benchmarks/kernels/bonus.py [--shapes qwen3-8b] [--batches 1 16 64]

Replayed from CUDA graphs after the L2 was overwritten; medians, tokens that differ, and the floor (W2 once, one row of
p and of the base logits for each request) are printed and appended to
``benchmarks/results/<date>-<hardware>-kernels/bonus.jsonl``. Without a GPU it prints floors and resources.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import torch  # noqa: E402
from rollout import output_folder  # noqa: E402
from rollout_report import append_row, print_bonus_resources  # noqa: E402
from rollout_shapes import ASSUMED_BANDWIDTH, SHAPES, ModelShape  # noqa: E402

BATCHES = (1, 4, 16, 64)


def main() -> int:
    options = parse_options()
    if not torch.cuda.is_available():
        print("no CUDA GPU on this machine: nothing is timed; latencies are owed.")
        print(f"floors at {ASSUMED_BANDWIDTH / 1e12:.1f} TB/s (assumed, an H100's copy), microseconds:")
        print(f"  {'shape':<12}" + "".join(f"{f'B={batch}':>9}" for batch in options.batches))
        for name in options.shapes:
            floors = (floor_us(SHAPES[name], batch, ASSUMED_BANDWIDTH) for batch in options.batches)
            print(f"  {name:<12}" + "".join(f"{floor:9.0f}" for floor in floors))
        print_bonus_resources(options.archs, options.batches)
        return 0
    from rollout_timing import copy_bandwidth

    hardware, bandwidth = torch.cuda.get_device_name(), copy_bandwidth()
    file = output_folder(options.output, hardware) / "bonus.jsonl"
    for name in options.shapes:
        for batch in options.batches:
            row = time_batch(SHAPES[name], batch, options.replays, bandwidth)
            append_row(file, {"kind": "bonus", "hardware": hardware, "torch": torch.__version__} | row)
            print(
                f"{name} B={batch}: kernel {row['kernel_us']:.1f} us, PyTorch {row['torch_us']:.1f} us, "
                f"floor {row['floor_us']:.0f} us; {row['differing']} tokens differ",
                flush=True,
            )
            torch.cuda.empty_cache()
    print(f"written: {file}")
    return 0


def floor_us(shape: ModelShape, batch: int, bandwidth: float) -> float:
    """Microseconds to read W2 once, and a row of p (float32) and of the base logits (16 bits) for each request."""
    return 1e6 * (shape.w2_bytes + batch * shape.vocab * (4 + 2)) / bandwidth


def time_batch(shape: ModelShape, batch: int, replays: int, bandwidth: float) -> dict[str, Any]:
    from rollout_timing import time_graph

    from domino_kernels import BonusDraw
    from domino_sglang.core.head import Draft, DraftSampling
    from domino_sglang.core.verify import DraftRows, bonus_token

    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*size: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device="cuda", dtype=dtype)

    proposals = shape.num_proposals
    base, w2 = normal(batch, proposals, shape.vocab), normal(shape.vocab, shape.rank)
    correction = 0.1 * normal(batch, proposals, shape.rank)
    p = normal(batch, proposals + 1, shape.vocab, dtype=torch.float32).softmax(-1)
    logsumexp = torch.full((batch, proposals), 12.5, device="cuda")
    tokens = torch.randint(shape.vocab, (batch, proposals), generator=generator, device="cuda")
    ids = torch.arange(batch, device="cuda")
    sampling = DraftSampling(torch.ones(batch, device="cuda"), ids * 7919, ids + 100)
    index = ids % (proposals + 1)
    rows = DraftRows(base, w2, Draft(tokens, logsumexp, logsumexp, correction), sampling)
    draw = BonusDraw(w2)
    kernel, ours = time_graph(lambda: draw(p, tokens, base, correction, logsumexp, sampling, index), replays)
    plain, theirs = time_graph(lambda: bonus_token(p, tokens, rows, sampling, index), replays)
    return {
        "shape": shape.name,
        "batch": batch,
        "kernel_us": kernel.median,
        "torch_us": plain.median,
        "floor_us": floor_us(shape, batch, bandwidth),
        "differing": int((ours != theirs).sum()),
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--output", type=Path, help="folder for results (default: benchmarks/results/<date>-...)")
    parser.add_argument("--archs", nargs="+", type=int, default=[90], help="compiled for, where there is no GPU")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
