"""An exactness report: what was compared, and every difference that was found."""

from __future__ import annotations

from pathlib import Path

from domino_sglang.bench.common import rows
from domino_sglang.bench.exactness.rows import CACHES, ExactnessSettings, PassRow, PlainRow
from domino_sglang.measure import tables
from domino_sglang.measure.tables import number


def write_report(folder: Path) -> Path:
    """Write ``report.md`` from ``rows.jsonl``; returns the report's path."""
    head, found = rows.read_run(folder / "rows.jsonl", ExactnessSettings, PlainRow, PassRow)
    plain = {row.concurrency: row for row in found if isinstance(row, PlainRow)}
    passes = [row for row in found if isinstance(row, PassRow)]
    body = [
        [
            row.concurrency,
            row.cache,
            plain[row.concurrency].tokens,
            len(row.differences),
            number(row.acceptance_length, 2),
            plain[row.concurrency].differs_from_itself,
        ]
        for row in passes
    ]
    columns = [
        "at once",
        "prefix cache",
        "tokens",
        "answers that differ",
        "acceptance length",
        "plain differs from itself",
    ]
    prompts = ", ".join(f"{count} {workload}" for workload, count in head.settings.prompts.items())
    lines = [
        f"# Greedy exactness: {_verdict(passes, len(CACHES) * len(head.settings.concurrencies))}",
        "",
        *head.markdown(),
        f"- asked: {prompts}; at most {head.settings.max_tokens} tokens an answer",
        *(f"- {arm}: `{server}`" for arm, server in head.settings.servers.items()),
        "",
        *tables.markdown(columns, body),
        *(f"- x{row.concurrency} {row.cache}: {difference}" for row in passes for difference in row.differences),
    ]
    report = folder / "report.md"
    report.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return report


def _verdict(passes: list[PassRow], planned: int) -> str:
    different = sum(len(row.differences) for row in passes)
    if not passes:
        return "nothing was compared"
    where = f"{len(passes)} passes" if len(passes) == planned else f"{len(passes)} of {planned} passes"
    return f"{different} answers differ in {where}" if different else f"all tokens identical in {where}"
