"""Acceptance as a table like the paper's Table 1, and as curves over the block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from domino_sglang.bench.accept.rows import AcceptRow, AcceptSettings
from domino_sglang.bench.common import rows
from domino_sglang.bench.common.arms import PLAIN
from domino_sglang.bench.sweep.plots import COLOURS, pyplot
from domino_sglang.measure import tables
from domino_sglang.measure.tables import number

Way = tuple[str, str]  # arm, drafts
AVERAGE = "mean"


class AcceptData:
    """Rows of one run, by workload, temperature and way of drafting."""

    def __init__(self, head: rows.Head[AcceptSettings], found: Sequence[AcceptRow]):
        self.head, self.settings = head, head.settings
        self._rows: dict[tuple[str, float, Way], list[AcceptRow]] = defaultdict(list)
        for row in found:
            self._rows[row.workload, row.temperature, (row.arm, row.drafts)].append(row)

    @classmethod
    def read(cls, folder: Path) -> AcceptData:
        head, found = rows.read_run(folder / "rows.jsonl", AcceptSettings, AcceptRow)
        return cls(head, found)

    def ways(self, temperature: float) -> list[Way]:
        """Ways of drafting at a temperature, base before DOMINO, greedy drafts before sampled."""
        found = {way for _, t, way in self._rows if t == temperature and way[0] != PLAIN}
        return sorted(found, key=lambda way: (way[0] != "base", way[1] != "greedy"))

    def steps(self, workload: str, temperature: float, way: Way) -> list[int]:
        """Accepted proposals of every verify step."""
        return [n for row in self._rows[workload, temperature, way] for n in row.accepted]

    def length(self, workload: str, temperature: float, way: Way) -> float | None:
        """Committed tokens per verify step, bonus included; of ``mean``, the mean over workloads."""
        if workload == AVERAGE:
            lengths = [self.length(name, temperature, way) for name in self.settings.workloads]
            known = [length for length in lengths if length is not None]
            return sum(known) / len(known) if known else None
        steps = self.steps(workload, temperature, way)
        return 1 + sum(steps) / len(steps) if steps else None

    def rate(self, workload: str, temperature: float, way: Way) -> float | None:
        """Tokens/s of the Transformers loop."""
        found = self._rows[workload, temperature, way]
        seconds = sum(row.seconds for row in found)
        return sum(row.tokens for row in found) / seconds if seconds else None

    def speedup(self, workload: str, temperature: float, way: Way) -> float | None:
        """Tokens/s over plain decoding's in the same loop; of ``mean``, the mean over workloads."""
        names = self.settings.workloads if workload == AVERAGE else [workload]
        ratios = []
        for name in names:
            rate = self.rate(name, temperature, way)
            plain = self.rate(name, temperature, (PLAIN, ""))
            if rate and plain:
                ratios.append(rate / plain)
        return sum(ratios) / len(ratios) if ratios else None

    def by_position(self, temperature: float, way: Way) -> list[float]:
        """Share of verify steps that accept proposal 1, 2, ..., over all workloads."""
        steps = [n for name in self.settings.workloads for n in self.steps(name, temperature, way)]
        size = max((n for _, found in self._rows.items() for row in found for n in row.accepted), default=0)
        return [sum(n >= j for n in steps) / len(steps) for j in range(1, size + 1)] if steps else []


def write_report(folder: Path) -> Path:
    """Write ``report.md`` and ``acceptance.png`` from ``rows.jsonl``; returns the report's path."""
    data = AcceptData.read(folder)
    s = data.settings
    workloads = [*s.workloads, AVERAGE]
    lines = [
        "# Acceptance length, offline",
        "",
        *data.head.markdown(),
        f"- decoding: Transformers, one request at a time, {s.num_prompts} prompts of each workload, at most "
        f"{s.max_tokens} tokens an answer; every way of drafting on the same prompts, in turn",
        "",
        "Each cell: acceptance length (committed tokens per verify step, bonus included), and in brackets the speedup "
        "over plain decoding in the same loop. `base` is the drafter with its head off. Drafts are `sampled` from the "
        "drafter's own distribution at the request's temperature, or `greedy` and verified as a point mass.",
        "",
    ]
    for temperature in s.temperatures:
        body = []
        for way in data.ways(temperature):
            cells = []
            for workload in workloads:
                length, speedup = (f(workload, temperature, way) for f in (data.length, data.speedup))
                cells.append(number(length, 2) + ("" if speedup is None else f" ({speedup:.2f}x)"))
            steps = sum(len(data.steps(name, temperature, way)) for name in s.workloads)
            body.append([way[0], way[1], *cells, str(steps)])
        name = "Greedy" if temperature == 0 else f"Temperature {temperature:g}"
        lines += [f"## {name}", "", *tables.markdown(["drafter", "drafts", *workloads, "verify steps"], body)]
        lines += _positions(data, temperature)
    if any(data.ways(temperature) for temperature in s.temperatures):
        _plot(data, folder / "acceptance.png")
        caption = "Share of verify steps that accept proposal 1, 2, ..., over all workloads"
        lines += [f"![{caption}](acceptance.png)", "", f"*{caption}.*"]
    report = folder / "report.md"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return report


def _positions(data: AcceptData, temperature: float) -> list[str]:
    curves = {way: data.by_position(temperature, way) for way in data.ways(temperature)}
    size = max((len(curve) for curve in curves.values()), default=0)
    if not size:
        return []
    head = ["accepted, by position", *map(str, range(1, size + 1))]
    return tables.markdown(
        head, ([f"{arm}, {drafts}", *(f"{x:.2f}" for x in curve)] for (arm, drafts), curve in curves.items())
    )


def _plot(data: AcceptData, file: Path) -> None:
    plt = pyplot()
    temperatures = [t for t in data.settings.temperatures if data.ways(t)]
    figure, axes = plt.subplots(
        1, len(temperatures), figsize=(1.2 + 3.8 * len(temperatures), 3.8), squeeze=False, sharey=True
    )
    for axis, temperature in zip(axes[0], temperatures, strict=True):
        for arm, drafts in data.ways(temperature):
            curve = data.by_position(temperature, (arm, drafts))
            dashed = drafts == "greedy" and temperature > 0
            positions = range(1, len(curve) + 1)
            axis.set_xticks(positions)
            axis.plot(
                positions,
                curve,
                marker="o",
                markersize=4,
                color=COLOURS[arm],
                linestyle="--" if dashed else "-",
                label=f"{arm}, {drafts} drafts" if temperature > 0 else f"{arm}",
            )
        axis.set_title("greedy" if temperature == 0 else f"temperature {temperature:g}")
        axis.set_xlabel("proposal accepted, by position")
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    axes[0][0].set_ylabel("share of verify steps")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.text(0.995, 0.01, data.head.hardware, ha="right", va="bottom", fontsize=7, color="#666666")
    figure.savefig(file, dpi=140)
    plt.close(figure)
