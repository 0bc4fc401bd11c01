"""What is written down while measuring, one JSON object a line."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RequestRow:
    """One streamed request as its client saw it; times in seconds.

    Attributes:
        start: of the request, on a clock shared by the requests of one point.
        ttft: from there to the first text.
        seconds: from there to the end of the stream.
        error: why it failed; None when it did not.
    """

    workload: str
    start: float
    ttft: float | None
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first: ``(seconds - ttft) / (completion_tokens - 1)``."""
        if self.ttft is None or self.completion_tokens < 2:
            return None
        return (self.seconds - self.ttft) / (self.completion_tokens - 1)


@dataclass(frozen=True)
class PointRow:
    """One arm at one point of the sweep, once.

    Attributes:
        complete: False when it was cut short; such a row is kept and enters no median.
        seconds: from the first request's start to the last one's end.
        tokens_per_s: output tokens of answered requests over ``seconds``.
        ttft, tpot: percentiles in seconds.
        acceptance_length: committed tokens per verify step; None where nothing is drafted.
        acceptance_by_position: share of verify steps that committed proposal 1, 2, ...; empty where not counted.
        step_ms: mean milliseconds of a decode step by part; empty where not timed.
        errors: distinct errors of failed requests.
    """

    arm: str
    workload: str
    temperature: float
    concurrency: int
    repetition: int
    complete: bool
    seconds: float
    requests: int
    failures: int
    output_tokens: int
    tokens_per_s: float
    requests_per_s: float
    ttft: dict[str, float]
    tpot: dict[str, float]
    acceptance_length: float | None = None
    acceptance_by_position: list[float] = field(default_factory=list)
    verify_steps: int = 0
    step_ms: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    kind: str = "point"


@dataclass(frozen=True)
class CrashRow:
    """An arm whose server did not come up, or died: when, and the end of its log."""

    arm: str
    during: str
    reason: str
    kind: str = "crash"


@dataclass(frozen=True)
class CrossCheckRow:
    """One point measured by locust and by ``sglang.bench_serving``, in turns."""

    arm: str
    workload: str
    temperature: float
    concurrency: int
    locust_tokens_per_s: list[float]
    sglang_tokens_per_s: list[float]
    difference: float
    agrees: bool
    error: str | None = None
    kind: str = "cross-check"


def to_json(row: Any) -> str:
    """One line; NaN becomes null."""
    return json.dumps(_without_nan(dataclasses.asdict(row)), ensure_ascii=False)


def append(file: Path, row: Any) -> None:
    """Add one row and close the file, so that an interruption loses nothing that was measured."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(to_json(row) + "\n")


def read(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file; a last line that was cut off is left out."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
