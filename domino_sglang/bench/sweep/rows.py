"""What a sweep writes down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from domino_sglang.bench.common.rows import Number


@dataclass(frozen=True)
class SweepSettings:
    """What was compared; ``arms`` maps a name to its server's flags, or to its URL."""

    arms: dict[str, str]
    workloads: list[str]
    temperatures: list[float]
    concurrencies: list[int]
    repetitions: int
    requests_per_user: int
    max_tokens: int
    servers_up_together: bool


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


@dataclass(frozen=True, kw_only=True)
class SweepRequestRow(RequestRow):
    """A request, and at which point of which arm it was sent.

    Attributes:
        point: the point's workload; ``workload`` is the prompt's, another one where the point mixes several.
    """

    arm: str
    point: str
    temperature: float
    concurrency: int
    repetition: int


@dataclass(frozen=True)
class Place:
    """An arm at one point of the sweep."""

    arm: str
    workload: str
    temperature: float
    concurrency: int


@dataclass(frozen=True)
class PointRow(Place):
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

    repetition: int
    complete: bool
    seconds: float
    requests: int
    failures: int
    output_tokens: int
    tokens_per_s: Number
    requests_per_s: Number
    ttft: dict[str, Number]
    tpot: dict[str, Number]
    acceptance_length: float | None = None
    acceptance_by_position: list[float] = field(default_factory=list)
    verify_steps: int = 0
    step_ms: dict[str, float] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    kind: Literal["point"] = "point"


@dataclass(frozen=True)
class CrashRow:
    """An arm whose server did not come up, or died: when, and the end of its log."""

    arm: str
    during: str
    reason: str
    kind: Literal["crash"] = "crash"


@dataclass(frozen=True)
class CrossCheckRow(Place):
    """One point measured by locust and by ``sglang.bench_serving``, in turns; NaN for the difference of nothing."""

    locust_tokens_per_s: list[float]
    sglang_tokens_per_s: list[float]
    difference: Number
    agrees: bool
    error: str | None = None
    kind: Literal["cross-check"] = "cross-check"
