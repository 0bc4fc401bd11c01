"""Times the Domino rollout: ours, plain PyTorch's and SGLang's, in one run over the same tensors.

    python benchmarks/kernels/rollout.py [--sglang-wheel sglang-0.5.23-*.whl] [--shapes qwen3-8b] [--batches 1 16]

Everything is replayed from CUDA graphs, each time with an overwritten L2 (the median of back-to-back replays stands
beside it as "warm"); medians are printed and written, with a plot, into
``benchmarks/results/<date>-<hardware>-kernels/``. SGLang's function contains the LM head, so the LM head is timed
alone as well and both ratios are given. Without a GPU it prints the floors and the compiled kernels' resources.

    python benchmarks/kernels/rollout.py --count-bytes DRAFTER PROMPTS.jsonl

drafts for these prompts under Transformers, on any machine, and counts what each way of choosing reads of W2.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import torch  # noqa: E402
import triton  # noqa: E402
from rollout_report import append_row, print_floors, print_ratios, print_resources, print_row, write_plot  # noqa: E402
from rollout_shapes import BATCHES, SHAPES, ModelShape  # noqa: E402
from rollout_targets import print_targets  # noqa: E402


def main() -> int:
    options = parse_options()
    if options.count_bytes:
        from rollout_bytes import run

        return run(options)
    if not torch.cuda.is_available():
        print("no CUDA GPU on this machine: nothing is timed; latencies and ratios are owed.")
        print_floors()
        print_targets([])
        print_resources(options.archs)
        return 0
    from rollout_arms import load_upstream
    from rollout_timing import copy_bandwidth

    upstream = load_upstream(options.sglang_wheel)
    if upstream is None:
        print("sglang is neither installed nor given by --sglang-wheel: its arms are left out")
    hardware = torch.cuda.get_device_name()
    bandwidth = copy_bandwidth()
    folder = output_folder(options.output, hardware)
    about = {
        "kind": "environment",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017
        "hardware": hardware,
        "copy_gb_per_s": bandwidth / 1e9,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        # Not where it lies: results are published.
        "upstream_sha256": upstream.sha256 if upstream else None,
        "command": " ".join(["python benchmarks/kernels/rollout.py", *sys.argv[1:]]),
    }
    print(json.dumps(about, indent=1), flush=True)
    append_row(folder / "results.jsonl", about)
    rows: list[dict[str, Any]] = []
    for name in options.shapes:
        rows += time_shape(SHAPES[name], options, upstream, bandwidth, folder / "results.jsonl")
        torch.cuda.empty_cache()
    print_targets(rows)
    write_plot(rows, folder / "latency.png", f"{hardware}: Domino rollout, CUDA-graph replay, medians")
    print(f"written: {folder}")
    return 1 if any("error" in row for row in rows) else 0


def time_shape(shape: ModelShape, options, upstream, bandwidth: float, file: Path) -> list[dict[str, Any]]:
    from rollout_arms import lm_head_arm, make_inputs, make_model, our_arms, torch_arm, upstream_arm
    from rollout_timing import run_oracle

    model = make_model(shape, torch.device("cuda"))
    rows = []
    for batch in options.batches:
        inputs = make_inputs(model, batch)
        oracle = run_oracle(model, inputs)
        builders = {
            "LM head": lambda inputs=inputs: lm_head_arm(model, inputs),
            "torch": lambda inputs=inputs: torch_arm(model, inputs),
        }
        for pool in (2048, 0) if upstream else ():
            builders[f"sglang pool {pool}"] = lambda inputs=inputs, pool=pool: upstream_arm(
                upstream, model, inputs, pool
            )
        builders |= our_arms(model, inputs)
        floor = shape.floor_us(batch, bandwidth)
        print(f"{shape.name}, B={batch}, floor {floor:.0f} us", flush=True)
        here = []
        for name, build in builders.items():
            if options.arms and name not in options.arms:
                continue
            row = time_arm(name, build, model, inputs, oracle, options.replays, floor)
            here.append({"kind": "timing", "shape": shape.name, "batch": batch, "floor_us": floor} | row)
            append_row(file, here[-1])
            print_row(here[-1])
            torch.cuda.empty_cache()
        print_ratios(here)
        rows += here
    return rows


def time_arm(name, build, model, inputs, oracle, replays: int, floor: float) -> dict[str, Any]:
    from rollout_timing import count_differences, time_graph

    try:
        arm = build()
        times, tokens = time_graph(arm.call, replays)
        compared = arm.greedy and tokens.dtype == torch.int64
        found = count_differences(model, inputs, oracle, tokens) if compared else None
    except Exception as error:  # one arm's failure must not cost the others their measurement
        return {"arm": name, "error": f"{type(error).__name__}: {str(error)[:500]}"}
    against_floor = arm.exact and not arm.includes_lm_head
    bytes_read = model.shape.floor_bytes(inputs.bonus.shape[0])
    return {
        "arm": name,
        **{f"{key}_us" if key != "replays" else key: value for key, value in asdict(times).items()},
        "includes_lm_head": arm.includes_lm_head,
        "exact": arm.exact,
        "extra_mb": arm.extra_bytes / 1e6,
        "gb_per_s": bytes_read / times.median / 1e3 if against_floor else None,
        "fraction_of_floor": floor / times.median if against_floor else None,
        "differing_requests": found.requests if found else None,
        "near_ties": found.near_ties if found else None,
        "largest_gap": found.largest_gap if found else None,
    }


def output_folder(given: Path | None, hardware: str) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", hardware.lower().replace("nvidia", "")).strip("-")
    folder = given or ROOT / "benchmarks" / "results" / f"{datetime.date.today()}-{slug}-kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--arms", nargs="+", help="only these, by the names the table prints")
    parser.add_argument("--sglang-wheel", type=Path, help="a wheel, or a folder that holds sglang/")
    parser.add_argument("--output", type=Path, help="folder for results (default: benchmarks/results/<date>-...)")
    parser.add_argument("--archs", nargs="+", type=int, default=[90], help="compiled for, where there is no GPU")
    group = parser.add_argument_group("counting bytes")
    group.add_argument("--count-bytes", nargs=2, type=Path, metavar=("DRAFTER", "PROMPTS"), help="folder, JSONL file")
    group.add_argument("--target", help="the drafter's target (default: the demo's SmolLM2-135M-Instruct)")
    group.add_argument("--max-tokens", type=int, default=64, help="of each answer (default: 64)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
