"""Where a decode step's time goes, as the server itself sees it: draft, head, verify, accept, commit, scheduler.

Off unless the server's environment says ``DOMINO_STEP_TIMER=1``; then ``domino:step_seconds_total{part}`` over
``domino:timed_steps_total`` is the mean of each part. The parts add up to the time from one decode step to the next:

- ``draft``: the drafter's forward, without the head;
- ``head``: base logits and the Domino head (on a GPU they are part of the captured draft graph, and of ``draft``);
- ``verify``: the target's forward over the block;
- ``accept``: penalties, probabilities, acceptance;
- ``commit``: what else the worker does, most of it preparing the block and writing the draft KV cache;
- ``scheduler``: from the end of one step to the start of the next, when no prefill lies between. After an idle
  moment there always is one, so waiting for work is not counted.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
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


class StepTimer:
    """Adds up the parts of decode steps.

    Args:
        clock: the device's.
        observe: called with part -> seconds of each step that has a neighbour before it.
    """

    def __init__(self, clock: Clock, observe: Callable[[dict[str, float]], None]):
        self.clock, self.observe = clock, observe
        self._spans: list[tuple[str, Any, Any]] | None = None
        self._previous_end: Any = None
        self._pending: deque[tuple[Any, Any, Any, list[tuple[str, Any, Any]]]] = deque()

    def step(self, decode: Callable) -> Callable:
        """Wrap the call that is one decode step."""

        def timed(*args, **kwargs):
            self._spans = []
            start = self.clock.mark()
            try:
                result = decode(*args, **kwargs)
            except BaseException:
                self._spans = self._previous_end = None
                raise
            end = self.clock.mark()
            if self._previous_end is not None:
                self._pending.append((self._previous_end, start, end, self._spans))
            self._spans, self._previous_end = None, end
            self._drain()
            return result

        return timed

    def span(self, part: str, call: Callable, when: Callable[..., bool] = lambda *_, **__: True) -> Callable:
        """Wrap a call inside a step; calls outside steps (warm-up, graph capture) are not timed."""

        def timed(*args, **kwargs):
            if self._spans is None or not when(*args, **kwargs):
                return call(*args, **kwargs)
            start = self.clock.mark()
            try:
                return call(*args, **kwargs)
            finally:
                self._spans.append((part, start, self.clock.mark()))

        return timed

    def interruption(self, call: Callable) -> Callable:
        """Wrap a call after which the next step has no neighbour: a prefill."""

        def timed(*args, **kwargs):
            try:
                return call(*args, **kwargs)
            finally:
                self._previous_end = None

        return timed

    def _drain(self) -> None:
        seconds = self.clock.seconds
        while self._pending and self.clock.passed(self._pending[0][2]):
            previous_end, start, end, spans = self._pending.popleft()
            parts = dict.fromkeys(STEP_PARTS, 0.0)
            for part, began, ended in spans:
                parts[part] += seconds(began, ended)
            # The head runs inside the drafter's forward.
            parts["draft"] -= parts["head"]
            inside = sum(parts.values())
            parts["commit"] = seconds(start, end) - inside
            parts["scheduler"] = seconds(previous_end, start)
            self.observe(parts)


def time_steps(worker: Any, model_name: str) -> StepTimer | None:
    """Time a DOMINO worker's steps from now on, if the environment asks for it.

    Args:
        worker: with ``_decode``, ``_prefill``, ``_accept_block``, ``draft_model_runner``, ``draft_model`` and
            ``_target_worker``.
        model_name: label of the counters.
    """
    if os.environ.get(STEP_TIMER) != "1":
        return None
    on_gpu = str(worker.device).startswith("cuda")
    timer = StepTimer(CudaClock() if on_gpu else HostClock(), _counters(model_name))
    target, runner = worker._target_worker, worker.draft_model_runner
    worker._decode = timer.step(worker._decode)
    worker._prefill = timer.interruption(worker._prefill)
    worker._accept_block = timer.span("accept", worker._accept_block)
    runner.forward = timer.span("draft", runner.forward)
    target.forward_batch_generation = timer.span("verify", target.forward_batch_generation, _is_verify)
    if not on_gpu:
        worker.draft_model.propose = timer.span("head", worker.draft_model.propose)
    return timer


def _is_verify(*_args, is_verify: bool = False, **_kwargs) -> bool:
    return is_verify


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
