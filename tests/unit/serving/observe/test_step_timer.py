"""The parts of a step, on a clock that the test moves."""

from types import SimpleNamespace

import pytest

from domino_sglang.names import STEP_PARTS as PARTS
from domino_sglang.names import STEP_TIMER
from domino_sglang.serving.observe import step_timer
from domino_sglang.serving.observe.step_timer import StepTimer, time_steps


class Clock:
    def __init__(self):
        self.now = 0.0

    def mark(self):
        return self.now

    def passed(self, mark):
        return True

    def seconds(self, start, end):
        return end - start

    def work(self, seconds, *calls):
        """A function that takes so long, half before and half after the calls it makes."""

        def call(*_args, **_kwargs):
            self.now += seconds / 2
            for inner in calls:
                inner()
            self.now += seconds / 2

        return call


def timed_worker(clock, seen):
    timer = StepTimer(clock, seen.append)
    head = timer.span("head", clock.work(2.0))
    draft = timer.span("draft", clock.work(3.0, head))
    verify = timer.span("verify", clock.work(4.0))
    accept = timer.span("accept", clock.work(1.0))
    return timer.step(clock.work(0.5, draft, verify, accept)), timer.interruption(clock.work(7.0)), draft


def test_parts_add_up_to_the_time_from_step_to_step():
    clock, seen = Clock(), []
    step, _prefill, _draft = timed_worker(clock, seen)
    step()
    assert seen == [], "the first step has no neighbour"
    clock.now += 0.25
    began = clock.now - 0.25
    step()
    assert seen == [
        pytest.approx({"draft": 3.0, "head": 2.0, "verify": 4.0, "accept": 1.0, "commit": 0.5, "scheduler": 0.25})
    ]
    assert sum(seen[0].values()) == pytest.approx(clock.now - began)
    assert set(seen[0]) == set(PARTS)


def test_waiting_for_work_is_not_the_schedulers():
    clock, seen = Clock(), []
    step, prefill, draft = timed_worker(clock, seen)
    step()
    clock.now += 100.0
    prefill()
    step()
    assert seen == []
    draft()
    step()
    assert len(seen) == 1 and seen[0]["draft"] == pytest.approx(3.0), "calls outside steps are not timed"


def test_a_step_that_fails_breaks_the_chain():
    clock, seen = Clock(), []

    def fail():
        raise ValueError

    timer = StepTimer(clock, seen.append)
    with pytest.raises(ValueError):
        timer.step(fail)()
    timer.step(clock.work(1.0))()
    assert seen == []


def test_only_a_server_told_to_is_timed(monkeypatch):
    monkeypatch.delenv(STEP_TIMER, raising=False)
    worker = SimpleNamespace()
    assert time_steps(worker, "model") is None
    assert vars(worker) == {}


def test_a_worker_is_timed_where_it_calls(monkeypatch):
    monkeypatch.setenv(STEP_TIMER, "1")
    seen = []
    monkeypatch.setattr(step_timer, "_counters", lambda _name: seen.append)

    class Worker:
        device = "cpu"

        def __init__(self):
            self.calls = []
            self.draft_model = SimpleNamespace(propose=lambda: self.calls.append("head"))
            self.draft_model_runner = SimpleNamespace(forward=self.draft_model_forward)
            self._target_worker = SimpleNamespace(forward_batch_generation=lambda **_: self.calls.append("target"))

        def draft_model_forward(self):
            self.draft_model.propose()

        def _decode(self):
            self.draft_model_runner.forward()
            self._target_worker.forward_batch_generation(is_verify=True)
            self._accept_block()

        def _prefill(self):
            self._target_worker.forward_batch_generation()

        def _accept_block(self):
            self.calls.append("accept")

    worker = Worker()
    assert time_steps(worker, "model") is not None
    for _ in range(3):
        worker._decode()
    assert worker.calls == ["head", "target", "accept"] * 3
    assert len(seen) == 2 and all(parts[name] > 0 for parts in seen for name in ("head", "verify", "accept"))
