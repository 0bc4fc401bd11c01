"""Tokens a step against verified tokens, as tables and as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from domino_sglang.bench.accept.rows import AcceptRow, AcceptSettings, Way
from domino_sglang.bench.common import rows
from domino_sglang.bench.sweep.plots import COLOURS, pyplot
from domino_sglang.measure import tables
from domino_sglang.measure.tables import number

AVERAGE = "mean"


class AcceptData:
    """Rows of one run, by workload, temperature, way of drafting and number of proposals."""

    def __init__(self, head: rows.Head[AcceptSettings], found: Sequence[AcceptRow]):
        self.head, self.settings = head, head.settings
        self._rows: dict[tuple[str, float, Way, float], list[AcceptRow]] = defaultdict(list)
        for row in found:
            self._rows[row.workload, row.temperature, row.way, row.proposals].append(row)

    @classmethod
    def read(cls, folder: Path) -> AcceptData:
        head, found = rows.read_run(folder / "rows.jsonl", AcceptSettings, AcceptRow)
        return cls(head, found)

    def ways(self, temperature: float) -> list[Way]:
        """Ways of drafting at a temperature: chains before trees, without the head before with it."""
        found = {way for _, t, way, _ in self._rows if t == temperature}
        return sorted(found, key=lambda way: (way.topk > 1, way.head, way.ragged))

    def length(self, workload: str, temperature: float, way: Way, proposals: float) -> float | None:
        """Committed tokens per verify step, bonus included; of ``mean``, the mean over workloads."""
        if workload == AVERAGE:
            lengths = [self.length(name, temperature, way, proposals) for name in self.settings.workloads]
            known = [length for length in lengths if length is not None]
            return sum(known) / len(known) if known else None
        steps = [n for row in self._rows[workload, temperature, way, proposals] for n in row.committed]
        return sum(steps) / len(steps) if steps else None


def write_report(folder: Path) -> Path:
    """Write ``report.md`` and ``acceptance.png`` from ``rows.jsonl``; returns the report's path."""
    data = AcceptData.read(folder)
    s = data.settings
    lines = [
        "# Tokens a step against verified tokens, offline",
        "",
        *data.head.markdown(),
        f"- texts: the target's own, {s.num_prompts} prompts of each workload ({', '.join(s.workloads)}), at most "
        f"{s.max_tokens} tokens an answer; every way of drafting on the same texts",
        f"- trees: {s.topk} paths side by side, {s.topk} children each",
        "",
        "Each cell: committed tokens per verify step and request, bonus included; first the mean of the workloads. "
        "`proposals` are verified a step and request: as many for each, or on average where it says ragged (all "
        "prompts are then decoded side by side, and the batch's likeliest nodes are verified). Sampled texts share "
        "their noise with the drafts.",
        "",
    ]
    for temperature in s.temperatures:
        ways = data.ways(temperature)
        if not ways:
            continue
        lines += [f"## {_name(temperature)}", "", *_table(data, AVERAGE, temperature, ways)]
        with_head = [way for way in ways if way.head]
        for workload in s.workloads:
            lines += [f"### {_name(temperature)}, {workload}", "", *_table(data, workload, temperature, with_head)]
    if any(data.ways(temperature) for temperature in s.temperatures):
        _plot(data, folder / "acceptance.png")
        caption = "Committed tokens per verify step against verified proposals, mean of the workloads"
        lines += [f"![{caption}](acceptance.png)", "", f"*{caption}.*"]
    report = folder / "report.md"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return report


def _name(temperature: float) -> str:
    return "Greedy" if temperature == 0 else f"Temperature {temperature:g}"


def _table(data: AcceptData, workload: str, temperature: float, ways: Sequence[Way]) -> list[str]:
    body = [
        [f"{proposals:g}", *(number(data.length(workload, temperature, way, proposals), 2) for way in ways)]
        for proposals in data.settings.proposals
    ]
    return tables.markdown(["proposals", *(way.name for way in ways)], body)


def _plot(data: AcceptData, file: Path) -> None:
    plt = pyplot()
    temperatures = [t for t in data.settings.temperatures if data.ways(t)]
    figure, axes = plt.subplots(
        1, len(temperatures), figsize=(1.2 + 3.8 * len(temperatures), 4.0), squeeze=False, sharey=True
    )
    for axis, temperature in zip(axes[0], temperatures, strict=True):
        for way in data.ways(temperature):
            axis.plot(
                data.settings.proposals,
                [data.length(AVERAGE, temperature, way, proposals) for proposals in data.settings.proposals],
                marker="o" if way.topk > 1 else "s",
                markersize=4,
                color=COLOURS["DOMINO" if way.head else "base"],
                alpha=1.0 if way.topk > 1 else 0.55,
                linestyle="--" if way.ragged else "-",
                label=way.name,
            )
        axis.set_xscale("log", base=2)
        axis.set_xticks(data.settings.proposals, [f"{n:g}" for n in data.settings.proposals])
        axis.set_title(_name(temperature).lower())
        axis.set_xlabel("verified proposals a step and request")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("committed tokens a step")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.text(0.995, 0.01, data.head.hardware, ha="right", va="bottom", fontsize=7, color="#666666")
    figure.savefig(file, dpi=140)
    plt.close(figure)
