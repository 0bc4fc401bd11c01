"""A sweep's report in Markdown, beside its plots; written from the rows, so it can be written again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from domino_sglang.bench.common.arms import PLAIN
from domino_sglang.bench.sweep.plots import title, write_plots
from domino_sglang.bench.sweep.report_data import Panel, SweepData
from domino_sglang.measure import tables
from domino_sglang.measure.tables import number
from domino_sglang.names import STEP_PARTS

CAPTIONS = {
    "throughput.png": "Tokens/s and speedup against concurrency; bars span least to greatest repetition",
    "latency.png": "Time to first token and time per output token: median, 95th and 99th percentile",
    "acceptance.png": "How far into the block proposals are accepted, over all concurrencies",
    "steps.png": "Where a decode step's time goes",
}


def write_report(folder: Path) -> Path:
    """Write ``report.md`` and its plots from ``rows.jsonl`` and ``requests.jsonl``; returns the report's path."""
    data = SweepData.read(folder)
    pictures = write_plots(data, folder)
    lines = ["# Throughput against concurrency", "", *data.head.markdown(), *_settings(data), ""]
    lines += _verdict(data)
    for panel in data.panels:
        lines += [f"## {title(panel).capitalize()}", "", *_tables(data, panel)]
    lines += _cross_check(data)
    for picture in pictures:
        lines += [f"![{CAPTIONS[picture]}]({picture})", "", f"*{CAPTIONS[picture]}.*", ""]
    lines += _arms(data)
    report = folder / "report.md"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return report


def _settings(data: SweepData) -> list[str]:
    s = data.settings
    servers = "all servers up, arms in turn at every point" if s.servers_up_together else "one server at a time"
    return [
        f"- load: locust, streaming chat, closed loop, {s.requests_per_user} requests per user and point, at most "
        f"{s.max_tokens} tokens an answer, {s.repetitions} interleaved repetitions, warm-up left out, prefix "
        f"cache flushed before each point; {servers}",
    ]


def _verdict(data: SweepData) -> list[str]:
    lines = []
    for crash in data.crashes:
        last = crash.reason.strip().splitlines()[-1]
        lines.append(f"- **{crash.arm} crashed** during {crash.during}: {last[:300]}")
    for row in data.cut_short:
        lines.append(
            f"- **cut short**, in no median: {row.arm}, {row.workload}, temperature {row.temperature:g}, "
            f"concurrency {row.concurrency}, repetition {row.repetition + 1}: {row.requests} requests, "
            f"{row.failures} failed" + (f" ({row.errors[0][:200]})" if row.errors else "")
        )
    lines.append(_completeness(data))
    return ["## What to know first", "", *lines, ""]


def _completeness(data: SweepData) -> str:
    panels = len(data.settings.workloads) * len(data.settings.temperatures)
    planned = len(data.arms) * panels * len(data.concurrencies) * data.settings.repetitions
    failures = sum(row.failures for row in [*data.points, *data.cut_short])
    requests = sum(row.requests for row in [*data.points, *data.cut_short])
    return f"- {len(data.points)} of {planned} planned points are complete; {failures} of {requests} requests failed."


def _tables(data: SweepData, panel: Panel) -> list[str]:
    columns = [str(c) for c in data.concurrencies]
    measured = [arm for arm in data.arms if data.select(panel, arm)]

    def over_concurrency(cell: Callable[[str, int], str], arms: Sequence[str]) -> list[str]:
        return tables.markdown(
            ["concurrency", *columns], ([arm, *(cell(arm, c) for c in data.concurrencies)] for arm in arms)
        )

    lines = ["Output tokens/s, median (least to greatest):", ""]
    lines += over_concurrency(lambda arm, c: data.tokens_per_s(panel, arm, c).text(1), measured)
    if PLAIN in measured and len(measured) > 1:
        others = [arm for arm in measured if arm != PLAIN]
        lines += [f"Speedup over {PLAIN} at the same concurrency:", ""]
        lines += over_concurrency(lambda arm, c: data.speedup(panel, arm, c).text(2), others)
    drafting = [arm for arm in measured if data.acceptance_length(panel, arm) is not None]
    if drafting:
        lines += ["Acceptance length (committed tokens per verify step, bonus included):", ""]
        lines += over_concurrency(lambda arm, c: number(data.acceptance_length(panel, arm, c), 2), drafting)
    for name, label in (("ttft", "Time to first token"), ("tpot", "Time per output token after the first")):

        def latency(arm: str, c: int, name: str = name) -> str:
            return " / ".join(number(value) for value in data.latency_ms(name, panel, arm, c).values())

        lines += [f"{label}, ms, p50 / p95 / p99:", "", *over_concurrency(latency, measured)]
    return lines + _steps(data, panel, measured)


def _steps(data: SweepData, panel: Panel, arms: Sequence[str]) -> list[str]:
    body = []
    for arm in arms:
        for c in data.concurrencies:
            parts = data.step_ms(panel, arm, c)
            if parts:
                whole = sum(parts.values())
                cells = [f"{parts[part]:.1f} ({100 * parts[part] / whole:.0f}%)" for part in STEP_PARTS]
                body.append([arm, str(c), *cells, f"{whole:.1f}"])
    if not body:
        return []
    head = ["arm", "concurrency", *STEP_PARTS, "step"]
    return ["Decode step, ms (share), timed inside the server:", "", *tables.markdown(head, body)]


def _cross_check(data: SweepData) -> list[str]:
    lines = ["## Cross-check with `sglang.bench_serving`", ""]
    if not data.cross_checks:
        return [*lines, "Not made.", ""]
    for row in data.cross_checks:
        where = f"{row.arm}, {row.workload}, temperature {row.temperature:g}, concurrency {row.concurrency}"
        if row.error:
            lines.append(f"- {where}: **failed**: {row.error.strip().splitlines()[-1][:300]}")
        if math.isnan(row.difference):
            continue
        rates = " against ".join(
            f"{who} " + ", ".join(f"{rate:.1f}" for rate in rates)
            for who, rates in (("locust", row.locust_tokens_per_s), ("bench_serving", row.sglang_tokens_per_s))
        )
        verdict = "within 5%" if row.agrees else "**more than 5% apart**"
        lines.append(f"- {where}: {rates} tokens/s; medians differ by {100 * row.difference:+.1f}%, {verdict}.")
    return [*lines, ""]


def _arms(data: SweepData) -> list[str]:
    lines = ["## Arms", ""]
    for arm, flags in data.settings.arms.items():
        lines.append(
            f"- {arm}: " + (flags if flags.startswith("http") else f"`python -m sglang.launch_server {flags}`")
        )
    return [*lines, ""]
