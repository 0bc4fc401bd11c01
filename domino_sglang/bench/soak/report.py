"""A soak's report: what was asked of the server, what was checked, and its memory over time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from domino_sglang.bench.common import rows
from domino_sglang.bench.common.statistics import percentile
from domino_sglang.bench.soak.rows import ANSWERED, DISCONNECTED, FAILED, Soak, SoakRow, SoakSettings
from domino_sglang.bench.sweep.plots import pyplot
from domino_sglang.measure import tables
from domino_sglang.measure.tables import number

OUTCOMES = (ANSWERED, DISCONNECTED, FAILED)


def write_report(folder: Path) -> Path:
    """Write ``report.md`` and ``soak.png`` from ``rows.jsonl``; returns the report's path."""
    head, (found, *asked) = rows.read_run(folder / "rows.jsonl", SoakSettings, Soak, SoakRow)
    result = "INTERRUPTED" if found.interrupted else "FAILED" if found.problems else "passed"
    lines = [
        f"# Soak: {result}",
        "",
        *head.markdown(),
        f"- server: `{head.settings.server}`",
        f"- load: {head.settings.concurrency} users for {found.minutes:g} minutes, "
        f"{100 * head.settings.disconnects:.0f}% of requests abandoned by their client, greedy and sampled",
        "",
        *(f"- **{problem}**" for problem in found.problems),
        *([""] if found.problems else []),
        *tables.markdown(["check", "result"], _checks(found)),
        *_by_kind(asked),
        *_errors(asked),
    ]
    if asked:
        _plot(found, asked, head.hardware, folder / "soak.png")
        caption = "Requests and output tokens a minute, and resident memory of all server processes"
        lines += [f"![{caption}](soak.png)", "", f"*{caption}.*"]
    report = folder / "report.md"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return report


def _checks(found: Soak) -> list[list[str]]:
    used = found.used_tokens
    memory = [size for _, size in found.memory]
    growth = found.memory_growth
    equal = {True: "unchanged", False: "**changed**", None: "not made"}[found.probes_first_last_equal]
    different = found.probes_under_load_different
    return [
        ["failed requests", str(found.counts.get(FAILED, 0))],
        ["KV slots taken while idle, before and after", " and ".join(map(str, used))],
        ["seconds until idle after the last client left", number(found.seconds_to_idle)],
        ["greedy probe, first against last", equal],
        ["greedy probe under load", f"{different} of {found.probes_under_load} differ from the first"],
        ["memory growth after the warm-up", "not watched" if growth is None else f"{100 * growth:+.2f}%"],
        ["resident memory, first, greatest, last (MB)",
         " / ".join(f"{size / 1e6:.0f}" for size in (memory[0], max(memory), memory[-1])) if memory else "not watched"],
    ]  # fmt: skip


def _by_kind(asked: list[SoakRow]) -> list[str]:
    body = []
    for kind in sorted({row.request for row in asked}):
        own = [row for row in asked if row.request == kind]
        counts = Counter(row.outcome for row in own)
        answered = [row.seconds for row in own if row.outcome == ANSWERED]
        tokens = sum(row.completion_tokens for row in own)
        cells = [str(counts[name]) for name in OUTCOMES]
        body.append(
            [kind, *cells, str(tokens), number(percentile(answered, 50), 2), number(percentile(answered, 99), 2)]
        )
    return tables.markdown(["request", *OUTCOMES, "output tokens", "seconds p50", "seconds p99"], body)


def _errors(asked: list[SoakRow]) -> list[str]:
    errors = Counter((row.request, row.error) for row in asked if row.error)
    if not errors:
        return []
    body = ([str(count), kind, error[:300]] for (kind, error), count in errors.most_common(20))
    return tables.markdown(["times", "request", "error"], body)


def _plot(found: Soak, asked: list[SoakRow], hardware: str, file: Path) -> None:
    plt = pyplot()
    figure, (load, memory) = plt.subplots(2, 1, figsize=(8, 5), sharex=True)
    width = max(found.minutes / 60, 1 / 6)
    ends = [((row.start + row.seconds) / 60, row) for row in asked]
    bins = [i * width for i in range(int(max(at for at, _ in ends) / width) + 1)]
    for label, value, style in (
        ("requests/min", lambda row: row.outcome == ANSWERED, "-"),
        ("disconnects/min", lambda row: row.outcome == DISCONNECTED, "--"),
        ("failures/min", lambda row: row.outcome == FAILED, ":"),
    ):
        sums = [sum(value(row) for at, row in ends if b <= at < b + width) / width for b in bins]
        load.plot([b + width / 2 for b in bins], sums, style, label=label)
    tokens = [sum(row.completion_tokens for at, row in ends if b <= at < b + width) / width / 60 for b in bins]
    load.plot([b + width / 2 for b in bins], tokens, color="#7f7f7f", linewidth=1, label="output tokens/s")
    load.set_ylim(bottom=0)
    load.legend(frameon=False, ncols=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.18))
    if found.memory:
        sizes = [size / 1e6 for _, size in found.memory]
        memory.plot([at / 60 for at, _ in found.memory], sizes)
        memory.set_ylim(0, 1.1 * max(sizes))
    memory.set_ylabel("resident memory, MB")
    memory.set_xlabel("minutes")
    for axis in (load, memory):
        axis.grid(alpha=0.3)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.text(0.995, 0.008, hardware, ha="right", va="bottom", fontsize=7, color="#666666")
    figure.savefig(file, dpi=140)
    plt.close(figure)
