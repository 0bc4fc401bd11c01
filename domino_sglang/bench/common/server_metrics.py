"""What a server counted between two moments, from its ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from domino_sglang.measure.client import Client, successful

Counters = Mapping[tuple[str, str], float]

# The label that tells apart the samples we read; other labels are summed over.
_LABEL = {"domino:accepted_proposals_total": "position", "domino:step_seconds_total": "part"}
_NAMES = (
    "domino:verify_steps_total",
    "domino:timed_steps_total",
    "sglang:spec_verify_calls_total",
    "sglang:generation_tokens_total",
    "sglang:num_requests_total",
    *_LABEL,
)


@dataclass(frozen=True)
class Decoding:
    """How a server decoded between two moments; see :class:`~domino_sglang.bench.sweep.rows.PointRow`."""

    acceptance_length: float | None = None
    acceptance_by_position: list[float] = field(default_factory=list)
    verify_steps: int = 0
    step_ms: dict[str, float] = field(default_factory=dict)


def scrape(url: str) -> Counters:
    """The counters of a server; empty when it serves none (no ``--enable-metrics``) or does not answer."""
    try:
        with Client(url) as client:
            return parse(successful(client.get("/metrics")).text)
    except httpx.HTTPError:
        return {}


def parse(text: str) -> Counters:
    """Prometheus text to ``(name, position or part) -> value``, summed over every other label."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in _NAMES:
                key = sample.name, sample.labels.get(_LABEL.get(sample.name, ""), "")
                found[key] = found.get(key, 0.0) + sample.value
    return found


def between(before: Counters, after: Counters) -> Decoding:
    """What happened from ``before`` to ``after``.

    DOMINO counts accepted proposals by position. Other algorithms give SGLang's own verify calls, and every output
    token but a request's first comes from one.
    """
    change = {key: value - before.get(key, 0.0) for key, value in after.items()}

    def total(name: str) -> float:
        return change.get((name, ""), 0.0)

    def labelled(name: str) -> dict[str, float]:
        return {label: value for (found, label), value in change.items() if found == name and label}

    steps = total("domino:verify_steps_total")
    by_position: list[float] = []
    length = None
    if steps:
        accepted = labelled("domino:accepted_proposals_total")
        by_position = [accepted[label] / steps for label in sorted(accepted, key=int)]
        length = 1 + sum(by_position)
    elif calls := total("sglang:spec_verify_calls_total"):
        steps = calls
        length = (total("sglang:generation_tokens_total") - total("sglang:num_requests_total")) / calls
    timed = total("domino:timed_steps_total")
    step_ms = {part: 1e3 * s / timed for part, s in labelled("domino:step_seconds_total").items()} if timed else {}
    return Decoding(length, by_position, int(steps), step_ms)
