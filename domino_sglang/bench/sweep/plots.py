"""The pictures of a sweep: throughput and speedup, latency, acceptance by position, step time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from domino_sglang.bench.common.arms import BASE, DFLASH, DOMINO, PLAIN
from domino_sglang.bench.common.statistics import Spread
from domino_sglang.bench.sweep.report_data import Panel, SweepData
from domino_sglang.errors import UserError
from domino_sglang.names import STEP_PARTS

COLOURS = {PLAIN: "#7f7f7f", BASE: "#1f77b4", DOMINO: "#d62728", DFLASH: "#2ca02c"}
OTHERS = ("#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf")
PART_COLOURS = ("#1f77b4", "#d62728", "#7f7f7f", "#ff9896", "#c7c7c7", "#bcbd22")
DPI = 140


def write_plots(data: SweepData, folder: Path) -> list[str]:
    """Draw what was measured; names of the files written."""
    if not data.points:
        return []
    files = ["throughput.png", "latency.png"]
    _throughput(data, folder / files[0])
    _latency(data, folder / files[1])
    if any(data.acceptance_by_position(panel, arm) for panel in data.panels for arm in data.arms):
        _acceptance(data, folder / "acceptance.png")
        files.append("acceptance.png")
    if any(row.step_ms for row in data.points):
        _steps(data, folder / "steps.png")
        files.append("steps.png")
    return files


def pyplot() -> Any:
    """matplotlib's pyplot, drawing to files.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("plots need matplotlib; pip install 'domino-sglang[bench]'") from None
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def colour(arm: str, arms: Sequence[str]) -> str:
    """An arm's colour, the same in every picture."""
    others = [name for name in arms if name not in COLOURS]
    return COLOURS.get(arm) or OTHERS[others.index(arm) % len(OTHERS)]


def title(panel: Panel) -> str:
    workload, temperature = panel
    return f"{workload}, {'greedy' if temperature == 0 else f'temperature {temperature:g}'}"


def grid(data: SweepData, heights: Sequence[str]) -> tuple[Any, Any]:
    """A figure with a column for each panel and a row for each quantity."""
    plt = pyplot()
    figure, axes = plt.subplots(
        len(heights),
        len(data.panels),
        figsize=(1.2 + 4.2 * len(data.panels), 0.9 + 3.0 * len(heights)),
        squeeze=False,
        sharey="row",
    )
    for column, panel in enumerate(data.panels):
        axes[0][column].set_title(title(panel))
    for row, label in enumerate(heights):
        axes[row][0].set_ylabel(label)
        for axis in axes[row]:
            axis.grid(alpha=0.3)
    return figure, axes


def save(figure: Any, data: SweepData, file: Path) -> None:
    """Legend above, hardware below."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    height = figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, 0.22 / height, 1, 1 - 0.35 / height))
    figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=6, frameon=False)
    figure.text(0.995, 0.04 / height, data.head.hardware, ha="right", va="bottom", fontsize=7, color="#666666")
    figure.savefig(file, dpi=DPI)
    pyplot().close(figure)


def _throughput(data: SweepData, file: Path) -> None:
    figure, axes = grid(data, ("output tokens/s", f"speedup over {PLAIN}"))
    for column, panel in enumerate(data.panels):
        for row, measure in enumerate((data.tokens_per_s, data.speedup)):
            for arm in data.arms:
                _curve(axes[row][column], data, panel, arm, measure)
        axes[1][column].axhline(1.0, color="#7f7f7f", linewidth=0.8)
    for axis in axes[0]:
        axis.set_ylim(bottom=0)
    _concurrency(axes, data)
    save(figure, data, file)


def _curve(axis: Any, data: SweepData, panel: Panel, arm: str, measure: Callable[[Panel, str, int], Spread]) -> None:
    spreads = [(c, measure(panel, arm, c)) for c in data.concurrencies]
    spreads = [(c, spread) for c, spread in spreads if spread.median == spread.median]
    if not spreads:
        return
    where = [c for c, _ in spreads]
    middle = [spread.median for _, spread in spreads]
    error = [[m - s.low for m, (_, s) in zip(middle, spreads, strict=True)],
             [s.high - m for m, (_, s) in zip(middle, spreads, strict=True)]]  # fmt: skip
    axis.errorbar(where, middle, error, marker="o", markersize=4, capsize=3, color=colour(arm, data.arms), label=arm)


def _latency(data: SweepData, file: Path) -> None:
    figure, axes = grid(data, ("TTFT, ms", "TPOT, ms"))
    styles = (("p50", "-", "o"), ("p95", "--", None), ("p99", ":", None))
    for column, panel in enumerate(data.panels):
        for row, name in enumerate(("ttft", "tpot")):
            for arm in data.arms:
                found = {c: data.latency_ms(name, panel, arm, c) for c in data.concurrencies}
                found = {c: values for c, values in found.items() if values["p50"] == values["p50"]}
                for key, line, marker in styles:
                    axes[row][column].plot(
                        list(found),
                        [values[key] for values in found.values()],
                        linestyle=line,
                        marker=marker,
                        markersize=4,
                        linewidth=1.5 if key == "p50" else 1.0,
                        color=colour(arm, data.arms),
                        label=arm if key == "p50" else None,
                    )
        for key, line, _marker in styles[1:]:
            axes[0][column].plot([], [], linestyle=line, color="black", linewidth=1.0, label=key)
    for axis in figure.axes:
        axis.set_ylim(bottom=0)
    _concurrency(axes, data)
    save(figure, data, file)


def _acceptance(data: SweepData, file: Path) -> None:
    figure, axes = grid(data, ("share of verify steps",))
    for column, panel in enumerate(data.panels):
        axis = axes[0][column]
        for arm in data.arms:
            shares = data.acceptance_by_position(panel, arm)
            if shares:
                positions = range(1, len(shares) + 1)
                axis.plot(positions, shares, marker="o", markersize=4, color=colour(arm, data.arms), label=arm)
                axis.set_xticks(positions)
        axis.set_ylim(0, 1)
        axis.set_xlabel("proposal accepted, by position")
    save(figure, data, file)


def _steps(data: SweepData, file: Path) -> None:
    figure, axes = grid(data, ("ms per decode step",))
    timed = [arm for arm in data.arms if any(row.step_ms for row in data.points if row.arm == arm)]
    width = 0.8 / len(timed)
    for column, panel in enumerate(data.panels):
        axis = axes[0][column]
        ticks, labels = [], []
        for i, concurrency in enumerate(data.concurrencies):
            for j, arm in enumerate(timed):
                parts = data.step_ms(panel, arm, concurrency)
                if not parts:
                    continue
                x, bottom = i + (j - (len(timed) - 1) / 2) * width, 0.0
                for part, part_colour in zip(STEP_PARTS, PART_COLOURS, strict=True):
                    height = parts.get(part, 0.0)
                    axis.bar(x, height, 0.9 * width, bottom, color=part_colour, label=part)
                    bottom += height
                ticks.append(x)
                labels.append(arm)
        # Names stand upright under their bars, where any number of arms has room, and the groups' names below them.
        axis.xaxis.remove_overlapping_locs = False
        axis.set_xticks(ticks, labels, minor=True, rotation=90, fontsize=8)
        axis.set_xticks(range(len(data.concurrencies)), [f"{c} at once" for c in data.concurrencies])
        axis.tick_params(axis="x", which="major", length=0, pad=8 + 5 * max(map(len, labels), default=0))
    save(figure, data, file)


def _concurrency(axes: Any, data: SweepData) -> None:
    for row in axes:
        for axis in row:
            axis.set_xscale("log", base=2)
            axis.set_xticks(data.concurrencies, [str(c) for c in data.concurrencies])
            axis.minorticks_off()
    for axis in axes[-1]:
        axis.set_xlabel("concurrency (users, closed loop)")
