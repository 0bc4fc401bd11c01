"""Tables, JSONL and the plot."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from rollout_shapes import ASSUMED_BANDWIDTH, BATCHES, SHAPES
from rollout_targets import ratios


def print_row(row: dict[str, Any]) -> None:
    if "error" in row:
        print(f"  {row['arm']:<20} failed: {row['error']}", flush=True)
        return
    floor = f"{row['gb_per_s']:7.0f} GB/s  {row['fraction_of_floor']:5.2f} of floor" if row["gb_per_s"] else " " * 29
    wrong = ""
    if row["differing_requests"] is not None:
        wrong = f"{row['differing_requests']} differ ({row['near_ties']} near-ties)"
    times = f"{row['median_us']:9.1f} us ({row['warm_median_us']:.1f} warm)"
    print(f"  {row['arm']:<20} {times}  {floor}  {row['extra_mb']:7.1f} MB extra  {wrong}", flush=True)


def print_ratios(rows: list[dict[str, Any]]) -> None:
    """How many times faster ours is, for one shape and batch: with the LM head in both, and without it in either."""
    found = ratios(rows)
    if found is None:
        return
    parts = [f"ours {found.to_floor:.2f}x the floor"]
    if found.torch is not None:
        parts.append(f"torch / ours {found.torch:.2f}x")
    for pool, (alone, whole) in found.upstream.items():
        parts.append(f"sglang pool {pool} / ours {alone:.2f}x without the LM head, {whole:.2f}x with it in both")
    print("  " + "; ".join(parts), flush=True)


def print_floors() -> None:
    assumed = f"{ASSUMED_BANDWIDTH / 1e12:.1f} TB/s"
    print("bytes of an exact rollout of one block: W2 once per corrected proposal, every base logit once")
    for shape in SHAPES.values():
        corrected, base = shape.num_proposals - shape.prefix, 2 * shape.vocab * shape.num_proposals
        print(f"  {shape.name:<12}{corrected} x {shape.w2_bytes / 1e6:.1f} MB + B x {base / 1e6:.1f} MB")
    print(f"floors at {assumed} (assumed, an H100's copy), microseconds per rollout of a block:")
    print(f"  {'shape':<12}" + "".join(f"{f'B={batch}':>9}" for batch in BATCHES))
    for shape in SHAPES.values():
        floors = (shape.floor_us(batch, ASSUMED_BANDWIDTH) for batch in BATCHES)
        print(f"  {shape.name:<12}" + "".join(f"{floor:9.0f}" for floor in floors))


def print_resources(archs: list[int]) -> None:
    """Compile what Qwen3-8B launches and print what it needs."""
    from resources import record_launches

    _print_resource_titles()
    for arch in archs:
        for batch in (1, 16, 64):
            for launch in record_launches(arch, batch, sampled=True):
                _print_resource(launch, arch, batch)


def print_bonus_resources(archs: list[int], batches: list[int]) -> None:
    """The same of the kernel that draws the bonus token."""
    from resources import record_bonus

    _print_resource_titles()
    for arch in archs:
        for batch in batches:
            for launch in record_bonus(arch, batch):
                _print_resource(launch, arch, batch)


def _print_resource_titles() -> None:
    print(f"{'kernel':<18}{'arch':>7}{'B':>4}{'registers':>10}{'spilled':>9}{'shared':>9}{'warps':>7}")


def _print_resource(launch, arch: int, batch: int) -> None:
    from resources import compile_launch

    found = compile_launch(launch, arch, batch)
    print(
        f"{found.kernel:<18}{f'sm_{arch}':>7}{batch:>4}{found.registers:>10}"
        f"{found.spilled:>9}{found.shared:>9}{found.num_warps:>7}",
        flush=True,
    )


def write_plot(rows: list[dict[str, Any]], file: Path, title: str) -> None:
    """Latency over batch, one panel per shape. Without matplotlib it says so: the rows are what was measured."""
    if not importlib.util.find_spec("matplotlib"):
        print(f"no plot: matplotlib is not installed; results.jsonl beside {file} holds every row")
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if "error" not in row]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    figure, panels = plt.subplots(1, len(shapes), figsize=(6 * len(shapes), 5), squeeze=False)
    for panel, shape in zip(panels[0], shapes, strict=True):
        mine = [row for row in rows if row["shape"] == shape]
        for arm in dict.fromkeys(row["arm"] for row in mine):
            points = [(row["batch"], row["median_us"]) for row in mine if row["arm"] == arm]
            panel.plot(*zip(*points, strict=True), marker="o", label=arm)
        floor = sorted({(row["batch"], row["floor_us"]) for row in mine})
        panel.plot(*zip(*floor, strict=True), linestyle="--", color="black", label="floor (without the LM head)")
        panel.set(xscale="log", yscale="log", xlabel="requests", ylabel="microseconds per block", title=shape)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def append_row(file: Path, row: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
