"""Where a decode step's time goes, as the server itself sees it: draft, head, verify, accept, commit, scheduler.

Off unless the server's environment says ``DOMINO_STEP_TIMER=1``; then ``domino:step_seconds_total{part}`` over
``domino:timed_steps_total`` is the mean of each part. The parts add up to the time from one decode step to the next:

- ``draft``: the block's preparation and the drafter's forward, without the head;
- ``head``: base logits and the Domino head (on a GPU they are part of the captured draft graph, and of ``draft``);
- ``verify``: the target's forward over the block, and its batch's preparation;
- ``accept``: penalties, probabilities, acceptance;
- ``commit``: what comes behind it, most of it writing the draft KV cache;
- ``scheduler``: from the end of one step to the start of the next, when no prefill lies between. After an idle
  moment there always is one, so waiting for work is not counted.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from domino_sglang.names import STEP_PARTS, STEP_TIMER


class Clock(Protocol):
    """Marks on a timeline, readable once they are past."""

    def mark(self) -> Any: ...

    def passed(self, mark: Any) -> bool: ...

    def seconds(self, start: Any, end: Any) -> float: ...


class HostClock:
    """For a CPU, where a forward has ended when its call returns."""

    mark = staticmethod(time.perf_counter)

    def passed(self, mark: float) -> bool:
        return True

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """Events on the current stream; never waits for the GPU."""

    def mark(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, mark: Any) -> bool:
        return mark.query()

    def seconds(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1e3


class NoTimer:
    """Times nothing; what a worker calls when nobody asked."""

    @contextmanager
    def step(self) -> Iterator[None]:
        yield

    def ends(self, part: str) -> None: ...

    @contextmanager
    def inside(self, part: str, of: str) -> Iterator[None]:
        yield

    def interrupted(self) -> None: ...


class StepTimer(NoTimer):
    """Adds up the parts of decode steps, each from the end of the one before it.

    Args:
        clock: the device's.
        observe: called with part -> seconds of each step that has a neighbour before it.
    """

    def __init__(self, clock: Clock, observe: Callable[[dict[str, float]], None]):
        self.clock, self.observe = clock, observe
        self._spans: list[tuple[str, int, Any, Any]] | None = None
        self._last: Any = None
        self._previous_end: Any = None
        self._pending: deque[list[tuple[str, int, Any, Any]]] = deque()

    @contextmanager
    def step(self) -> Iterator[None]:
        """One decode step; what no other part has taken of it is ``commit``'s."""
        start = self._last = self.clock.mark()
        spans = self._spans = []
        try:
            yield
        except BaseException:
            self._spans = self._previous_end = None
            raise
        self.ends("commit")
        self._spans = None
        if self._previous_end is not None:
            self._pending.append([("scheduler", 1, self._previous_end, start), *spans])
        self._previous_end = self._last
        self._drain()

    def ends(self, part: str) -> None:
        """The time since the last part's end, or the step's start, was this one's. Outside steps nothing is timed."""
        if self._spans is not None:
            now = self.clock.mark()
            self._spans.append((part, 1, self._last, now))
            self._last = now

    @contextmanager
    def inside(self, part: str, of: str) -> Iterator[None]:
        """A part that lies inside another one, and is taken out of it; warm-up and graph capture are not timed."""
        start = None if self._spans is None else self.clock.mark()
        try:
            yield
        finally:
            if start is not None and self._spans is not None:
                end = self.clock.mark()
                self._spans += [(part, 1, start, end), (of, -1, start, end)]

    def interrupted(self) -> None:
        """The next step has no neighbour: a prefill lies between."""
        self._previous_end = None

    def _drain(self) -> None:
        while self._pending and self.clock.passed(self._pending[0][-1][3]):
            parts = dict.fromkeys(STEP_PARTS, 0.0)
            for part, sign, began, ended in self._pending.popleft():
                parts[part] += sign * self.clock.seconds(began, ended)
            self.observe(parts)


def step_timer(device: Any, model_name: str) -> NoTimer:
    """A timer for a worker on ``device``, counting under the label ``model_name``, if the environment asks for one."""
    if os.environ.get(STEP_TIMER) != "1":
        return NoTimer()
    clock = CudaClock() if str(device).startswith("cuda") else HostClock()
    return StepTimer(clock, _counters(model_name))


def _counters(model_name: str) -> Callable[[dict[str, float]], None]:
    from prometheus_client import Counter

    labels = {"model_name": model_name}
    steps = Counter("domino:timed_steps_total", "Decode steps that were timed.", labels.keys()).labels(**labels)
    seconds = Counter("domino:step_seconds_total", "Time of timed decode steps, by part.", [*labels, "part"])
    by_part = {part: seconds.labels(**labels, part=part) for part in STEP_PARTS}

    def observe(parts: dict[str, float]) -> None:
        steps.inc()
        for part, value in parts.items():
            by_part[part].inc(max(value, 0.0))

    return observe
