"""What a soak writes down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ANSWERED, DISCONNECTED, FAILED = "answered", "disconnected", "failed"


@dataclass(frozen=True)
class SoakSettings:
    """The load, and the server's command line or URL."""

    server: str
    concurrency: int
    disconnects: float


@dataclass
class Soak:
    """What a soak found.

    Attributes:
        used_tokens: KV slots taken while idle, before and after.
        probes: greedy answers before, under load, and after.
        memory: (seconds, resident bytes) of the server's process group.
        problems: what failed; empty is a pass.
    """

    minutes: float
    counts: dict[str, int] = field(default_factory=dict)
    used_tokens: list[int] = field(default_factory=list)
    seconds_to_idle: float | None = None
    probes_first_last_equal: bool | None = None
    probes_under_load: int = 0
    probes_under_load_different: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)
    memory_growth: float | None = None
    interrupted: bool = False
    problems: list[str] = field(default_factory=list)
    kind: Literal["soak"] = "soak"


@dataclass(frozen=True)
class SoakRow:
    """One request: what became of it, and when (seconds since the soak began)."""

    request: str
    streamed: bool
    outcome: str
    start: float
    seconds: float
    completion_tokens: int = 0
    error: str | None = None
    kind: Literal["request"] = "request"
