"""A sweep's rows, arranged for the report and its plots."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domino_sglang.bench.common import rows
from domino_sglang.bench.common.arms import PLAIN
from domino_sglang.bench.common.statistics import Spread, percentiles
from domino_sglang.measure.provenance import Provenance

Panel = tuple[str, float]


@dataclass(frozen=True)
class SweepData:
    """Everything one sweep left.

    Attributes:
        points: rows of complete points; medians are over these.
        cut_short: rows of points that were not.
        requests: answered requests of complete points.
    """

    provenance: Provenance
    settings: dict[str, Any]
    points: list[dict[str, Any]]
    cut_short: list[dict[str, Any]]
    crashes: list[dict[str, Any]]
    cross_checks: list[dict[str, Any]]
    requests: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> SweepData:
        by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows.read(folder / "rows.jsonl"):
            by_kind[row.pop("kind")].append(row)
        head = by_kind["provenance"][0]
        settings = head.pop("settings")
        points = [row for row in by_kind["point"] if row["complete"]]
        known = {(_place(row), row["workload"], row["repetition"]) for row in points}
        requests = [
            row
            for row in rows.read(folder / "requests.jsonl")
            if row["error"] is None and (_place(row), row["point"], row["repetition"]) in known
        ]
        cut_short = [row for row in by_kind["point"] if not row["complete"]]
        provenance = Provenance(**head)
        return cls(provenance, settings, points, cut_short, by_kind["crash"], by_kind["cross-check"], requests)

    @property
    def arms(self) -> list[str]:
        return list(self.settings["arms"])

    @property
    def panels(self) -> list[Panel]:
        """(workload, temperature) pairs that were measured, in order."""
        return [
            (workload, temperature)
            for workload in self.settings["workloads"]
            for temperature in self.settings["temperatures"]
            if self.select((workload, temperature))
        ]

    @property
    def concurrencies(self) -> list[int]:
        return list(self.settings["concurrencies"])

    def select(self, panel: Panel, arm: str | None = None, concurrency: int | None = None) -> list[dict[str, Any]]:
        """Complete points of a panel, of one arm, at one concurrency."""
        return [
            row
            for row in self.points
            if (row["workload"], row["temperature"]) == panel
            and arm in (None, row["arm"])
            and concurrency in (None, row["concurrency"])
        ]

    def tokens_per_s(self, panel: Panel, arm: str, concurrency: int) -> Spread:
        return Spread.of([row["tokens_per_s"] for row in self.select(panel, arm, concurrency)])

    def speedup(self, panel: Panel, arm: str, concurrency: int) -> Spread:
        """Tokens/s over plain decoding's, repetition by repetition: both saw the same prompts at about one time."""
        plain = {row["repetition"]: row["tokens_per_s"] for row in self.select(panel, PLAIN, concurrency)}
        return Spread.of(
            [
                row["tokens_per_s"] / plain[row["repetition"]]
                for row in self.select(panel, arm, concurrency)
                if row["repetition"] in plain
            ]
        )

    def latency_ms(self, name: str, panel: Panel, arm: str, concurrency: int) -> dict[str, float]:
        """Percentiles of ``ttft`` or ``tpot`` over the requests of all repetitions, in milliseconds."""
        workload, temperature = panel
        found = [
            row
            for row in self.requests
            if row["point"] == workload and _place(row) == (arm, temperature, concurrency) and row["ttft"] is not None
        ]
        if name == "ttft":
            values = [row["ttft"] for row in found]
        else:
            values = [
                (row["seconds"] - row["ttft"]) / (row["completion_tokens"] - 1)
                for row in found
                if row["completion_tokens"] > 1
            ]
        return percentiles([1e3 * value for value in values])

    def acceptance_length(self, panel: Panel, arm: str, concurrency: int | None = None) -> float | None:
        """Over all verify steps of the points."""
        found = [row for row in self.select(panel, arm, concurrency) if row["acceptance_length"] is not None]
        steps = sum(row["verify_steps"] for row in found)
        return sum(row["acceptance_length"] * row["verify_steps"] for row in found) / steps if steps else None

    def acceptance_by_position(self, panel: Panel, arm: str) -> list[float]:
        """Share of verify steps that committed proposal 1, 2, ..., over all concurrencies."""
        found = [row for row in self.select(panel, arm) if row["acceptance_by_position"]]
        steps = sum(row["verify_steps"] for row in found)
        if not steps:
            return []
        return [
            sum(row["acceptance_by_position"][j] * row["verify_steps"] for row in found) / steps
            for j in range(len(found[0]["acceptance_by_position"]))
        ]

    def step_ms(self, panel: Panel, arm: str, concurrency: int) -> dict[str, float]:
        """Median over repetitions of each part of a decode step."""
        found = [row["step_ms"] for row in self.select(panel, arm, concurrency) if row["step_ms"]]
        return {part: Spread.of([row[part] for row in found]).median for part in found[0]} if found else {}


def _place(row: dict[str, Any]) -> tuple[str, float, int]:
    return row["arm"], row["temperature"], row["concurrency"]
