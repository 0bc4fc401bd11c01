"""The order of a sweep: repetitions of all arms interleaved, so that a drift of the machine meets every arm alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domino_sglang.bench.common.arms import Arm
from domino_sglang.bench.sweep.point import Point


@dataclass(frozen=True)
class Step:
    """One measurement."""

    arm: Arm
    point: Point
    repetition: int


def plan(arms: Sequence[Arm], points: Sequence[Point], repetitions: int, together: bool) -> list[Step]:
    """Every arm at every point, ``repetitions`` times.

    Args:
        together: all servers are up, and arms take turns at each point; otherwise a repetition takes the arms one
            after the other, because each needs a server of its own. The first arm is another one each time.
    """
    steps = []
    for repetition in range(repetitions):
        if together:
            for number, point in enumerate(points):
                steps += [Step(arm, point, repetition) for arm in _rotated(arms, repetition + number)]
        else:
            for arm in _rotated(arms, repetition):
                steps += [Step(arm, point, repetition) for point in points]
    return steps


def _rotated(arms: Sequence[Arm], by: int) -> list[Arm]:
    by %= len(arms)
    return [*arms[by:], *arms[:by]]


class Progress:
    """How far a plan is, and how long the rest will take.

    A point's time is told by the same arm at the same point, else by the mean of all.
    """

    def __init__(self, steps: Sequence[Step]):
        self.left = list(steps)
        self.total = len(self.left)
        self._seconds: dict[tuple[str, Point], list[float]] = {}

    def done(self, step: Step, seconds: float) -> None:
        self.left.remove(step)
        self._seconds.setdefault((step.arm.name, step.point), []).append(seconds)

    def skipped(self, step: Step) -> None:
        self.left.remove(step)

    def remaining_s(self) -> float | None:
        """Seconds; None before the first point is measured."""
        known = [s for seconds in self._seconds.values() for s in seconds]
        if not known:
            return None
        mean = sum(known) / len(known)
        return sum(self._expected(step, mean) for step in self.left)

    def text(self) -> str:
        remaining = self.remaining_s()
        when = "" if remaining is None else f", about {max(1, round(remaining / 60))} min left"
        return f"[{self.total - len(self.left) + 1}/{self.total}{when}]"

    def _expected(self, step: Step, mean: float) -> float:
        seconds = self._seconds.get((step.arm.name, step.point))
        return sum(seconds) / len(seconds) if seconds else mean
