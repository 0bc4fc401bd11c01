"""From the requests of one point to its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domino_sglang.bench.common.server_metrics import Decoding
from domino_sglang.bench.common.statistics import percentiles
from domino_sglang.bench.sweep.rows import PointRow, RequestRow


@dataclass(frozen=True)
class Point:
    """Where on the sweep: what is asked, how, and by how many users at once."""

    workload: str
    temperature: float
    concurrency: int

    def __str__(self) -> str:
        return f"{self.workload}, temperature {self.temperature:g}, concurrency {self.concurrency}"


def summarise(
    arm: str,
    point: Point,
    repetition: int,
    requests: Sequence[RequestRow],
    expected: int,
    decoding: Decoding | None,
) -> PointRow:
    """The row of one measured point; ``expected`` requests make it complete."""
    answered = [row for row in requests if row.error is None]
    seconds = max(r.start + r.seconds for r in requests) - min(r.start for r in requests) if requests else 0.0
    tokens = sum(row.completion_tokens for row in answered)
    decoding = decoding or Decoding()
    return PointRow(
        arm=arm,
        **vars(point),
        repetition=repetition,
        complete=len(answered) >= expected,
        seconds=seconds,
        requests=len(requests),
        failures=len(requests) - len(answered),
        output_tokens=tokens,
        tokens_per_s=tokens / seconds if seconds else float("nan"),
        requests_per_s=len(answered) / seconds if seconds else float("nan"),
        ttft=percentiles([row.ttft for row in answered if row.ttft is not None]),
        tpot=percentiles([row.tpot for row in answered if row.tpot is not None]),
        acceptance_length=decoding.acceptance_length,
        acceptance_by_position=decoding.acceptance_by_position,
        verify_steps=decoding.verify_steps,
        step_ms=decoding.step_ms,
        errors=sorted({row.error for row in requests if row.error is not None}),
    )
