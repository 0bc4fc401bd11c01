"""Ratios between the arms, and what was aimed for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratios:
    """Times of the others over ours, for one shape and batch.

    Attributes:
        to_floor: ours over the floor.
        torch: the PyTorch rollout; None if it was not timed.
        upstream: SGLang's function by pool size: the LM head subtracted from it, and added to ours.
    """

    to_floor: float
    torch: float | None
    upstream: dict[int, tuple[float, float]]


def ratios(rows: list[dict[str, Any]]) -> Ratios | None:
    """From the rows of one shape and batch; None if ours was not timed."""
    times = {row["arm"]: row["median_us"] for row in rows if "error" not in row}
    ours = times.get("ours")
    if ours is None:
        return None
    upstream = {}
    for pool in (2048, 0):
        theirs, lm_head = times.get(f"sglang pool {pool}"), times.get("LM head")
        if theirs is not None and lm_head is not None:
            upstream[pool] = (theirs - lm_head) / ours, theirs / (lm_head + ours)
    return Ratios(ours / rows[0]["floor_us"], times["torch"] / ours if "torch" in times else None, upstream)


@dataclass(frozen=True)
class Target:
    """``value`` of every measured shape and batch (of B = 1 alone, if so) has to reach ``bound``."""

    text: str
    bound: float
    value: Callable[[Ratios], float | None]
    only_one_request: bool = False
    at_most: bool = False


TARGETS = (
    Target("at least 2.0x faster than SGLang's pool of 2048, at every B", 2.0, lambda r: _alone(r, 2048)),
    Target("at least 3.0x faster than SGLang's pool 0 at B=1", 3.0, lambda r: _alone(r, 0), only_one_request=True),
    Target("at most 1.25x the floor at B=1", 1.25, lambda r: r.to_floor, only_one_request=True, at_most=True),
    Target("at least 2.0x faster than the PyTorch rollout", 2.0, lambda r: r.torch),
)


def _alone(found: Ratios, pool: int) -> float | None:
    return found.upstream[pool][0] if pool in found.upstream else None


def print_targets(rows: list[dict[str, Any]]) -> None:
    """Each target, the worst value measured, and whether that is enough; ``owed`` where nothing was timed.

    Ratios to SGLang are those without the LM head in either.
    """
    print("targets for an H100 (bfloat16, CUDA-graph replay, medians):")
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["shape"], row["batch"]), []).append(row)
    for target in TARGETS:
        values = []
        for (_, batch), group in groups.items():
            found = ratios(group)
            value = target.value(found) if found and not (target.only_one_request and batch > 1) else None
            if value is not None:
                values.append(value)
        print(f"  {target.text}: {_verdict(target, values)}", flush=True)


def _verdict(target: Target, values: list[float]) -> str:
    if not values:
        return "owed"
    worst = max(values) if target.at_most else min(values)
    met = worst <= target.bound if target.at_most else worst >= target.bound
    return f"{'met' if met else 'missed'}, worst of {len(values)} is {worst:.2f}x"
