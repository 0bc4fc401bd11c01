"""A sweep's rows, arranged for the report and its plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from domino_sglang.bench.common import rows
from domino_sglang.bench.common.arms import PLAIN
from domino_sglang.bench.common.statistics import Spread, percentiles
from domino_sglang.bench.sweep.rows import (
    CrashRow,
    CrossCheckRow,
    PointRow,
    SweepRequestRow,
    SweepSettings,
)

Panel = tuple[str, float]


@dataclass(frozen=True)
class SweepData:
    """Everything one sweep left.

    Attributes:
        points: rows of complete points; medians are over these.
        cut_short: rows of points that were not.
        requests: answered requests of complete points.
    """

    head: rows.Head[SweepSettings]
    points: list[PointRow]
    cut_short: list[PointRow]
    crashes: list[CrashRow]
    cross_checks: list[CrossCheckRow]
    requests: list[SweepRequestRow]

    @classmethod
    def read(cls, folder: Path) -> SweepData:
        head, found = rows.read_run(folder / "rows.jsonl", SweepSettings, PointRow, CrashRow, CrossCheckRow)
        measured = [row for row in found if isinstance(row, PointRow)]
        complete = {(_place(row), row.workload, row.repetition) for row in measured if row.complete}
        asked = rows.read(folder / "requests.jsonl", SweepRequestRow) if (folder / "requests.jsonl").is_file() else []
        return cls(
            head,
            points=[row for row in measured if row.complete],
            cut_short=[row for row in measured if not row.complete],
            crashes=[row for row in found if isinstance(row, CrashRow)],
            cross_checks=[row for row in found if isinstance(row, CrossCheckRow)],
            requests=[
                row for row in asked if row.error is None and (_place(row), row.point, row.repetition) in complete
            ],
        )

    @property
    def settings(self) -> SweepSettings:
        return self.head.settings

    @property
    def arms(self) -> list[str]:
        return list(self.settings.arms)

    @property
    def panels(self) -> list[Panel]:
        """(workload, temperature) pairs that were measured, in order."""
        return [
            (workload, temperature)
            for workload in self.settings.workloads
            for temperature in self.settings.temperatures
            if self.select((workload, temperature))
        ]

    @property
    def concurrencies(self) -> list[int]:
        return list(self.settings.concurrencies)

    def select(self, panel: Panel, arm: str | None = None, concurrency: int | None = None) -> list[PointRow]:
        """Complete points of a panel, of one arm, at one concurrency."""
        return [
            row
            for row in self.points
            if (row.workload, row.temperature) == panel
            and arm in (None, row.arm)
            and concurrency in (None, row.concurrency)
        ]

    def tokens_per_s(self, panel: Panel, arm: str, concurrency: int) -> Spread:
        return Spread.of([row.tokens_per_s for row in self.select(panel, arm, concurrency)])

    def speedup(self, panel: Panel, arm: str, concurrency: int) -> Spread:
        """Tokens/s over plain decoding's, repetition by repetition: both saw the same prompts at about one time."""
        plain = {row.repetition: row.tokens_per_s for row in self.select(panel, PLAIN, concurrency)}
        return Spread.of(
            [
                row.tokens_per_s / plain[row.repetition]
                for row in self.select(panel, arm, concurrency)
                if row.repetition in plain
            ]
        )

    def latency_ms(self, name: str, panel: Panel, arm: str, concurrency: int) -> dict[str, float]:
        """Percentiles of ``ttft`` or ``tpot`` over the requests of all repetitions, in milliseconds."""
        workload, temperature = panel
        found = [
            row for row in self.requests if row.point == workload and _place(row) == (arm, temperature, concurrency)
        ]
        values = [getattr(row, name) for row in found]
        return percentiles([1e3 * value for value in values if value is not None])

    def acceptance_length(self, panel: Panel, arm: str, concurrency: int | None = None) -> float | None:
        """Over all verify steps of the points."""
        found = [
            (row.acceptance_length, row.verify_steps)
            for row in self.select(panel, arm, concurrency)
            if row.acceptance_length is not None
        ]
        steps = sum(steps for _, steps in found)
        return sum(length * steps for length, steps in found) / steps if steps else None

    def acceptance_by_position(self, panel: Panel, arm: str) -> list[float]:
        """Share of verify steps that committed proposal 1, 2, ..., over all concurrencies."""
        found = [row for row in self.select(panel, arm) if row.acceptance_by_position]
        steps = sum(row.verify_steps for row in found)
        if not steps:
            return []
        return [
            sum(row.acceptance_by_position[j] * row.verify_steps for row in found) / steps
            for j in range(len(found[0].acceptance_by_position))
        ]

    def step_ms(self, panel: Panel, arm: str, concurrency: int) -> dict[str, float]:
        """Median over repetitions of each part of a decode step."""
        found = [row.step_ms for row in self.select(panel, arm, concurrency) if row.step_ms]
        return {part: Spread.of([row[part] for row in found]).median for part in found[0]} if found else {}


def _place(row: PointRow | SweepRequestRow) -> tuple[str, float, int]:
    return row.arm, row.temperature, row.concurrency
