"""The parts of a step, on a clock that the test moves."""

import pytest

from domino_sglang.names import STEP_PARTS, STEP_TIMER
from domino_sglang.serving.observe.step_timer import HostClock, NoTimer, StepTimer, step_timer


class Clock:
    def __init__(self):
        self.now = 0.0

    def mark(self):
        return self.now

    def passed(self, mark):
        return True

    def seconds(self, start, end):
        return end - start


def decode(timer: NoTimer, clock: Clock) -> None:
    """A worker's step: drafting for 3 s with the head for 2 of them, verifying for 4, accepting for 1, the rest 0.5."""
    with timer.step():
        clock.now += 1.0
        with timer.inside("head", of="draft"):
            clock.now += 2.0
        timer.ends("draft")
        clock.now += 4.0
        timer.ends("verify")
        clock.now += 1.0
        timer.ends("accept")
        clock.now += 0.5


def test_parts_add_up_to_the_time_from_step_to_step():
    clock, seen = Clock(), []
    timer = StepTimer(clock, seen.append)
    decode(timer, clock)
    assert seen == [], "the first step has no neighbour"
    clock.now += 0.25
    began = clock.now - 0.25
    decode(timer, clock)
    assert seen == [
        pytest.approx({"draft": 1.0, "head": 2.0, "verify": 4.0, "accept": 1.0, "commit": 0.5, "scheduler": 0.25})
    ]
    assert sum(seen[0].values()) == pytest.approx(clock.now - began)
    assert set(seen[0]) == set(STEP_PARTS)


def test_waiting_for_work_is_not_the_schedulers():
    clock, seen = Clock(), []
    timer = StepTimer(clock, seen.append)
    decode(timer, clock)
    clock.now += 100.0
    timer.interrupted()
    decode(timer, clock)
    assert seen == []
    # Warm-up and graph capture call the same code outside steps.
    with timer.inside("head", of="draft"):
        clock.now += 50.0
    timer.ends("draft")
    timer.interrupted()
    decode(timer, clock)
    decode(timer, clock)
    assert len(seen) == 1 and seen[0]["draft"] == pytest.approx(1.0)


def test_a_step_that_fails_breaks_the_chain():
    clock, seen = Clock(), []
    timer = StepTimer(clock, seen.append)
    decode(timer, clock)
    with pytest.raises(ValueError), timer.step():
        raise ValueError
    decode(timer, clock)
    assert seen == []


def test_marks_that_are_not_past_wait(monkeypatch):
    clock, seen = Clock(), []
    timer = StepTimer(clock, seen.append)
    monkeypatch.setattr(clock, "passed", lambda mark: mark < 17.0)
    for _ in range(3):
        decode(timer, clock)
    assert len(seen) == 0
    monkeypatch.undo()
    decode(timer, clock)
    assert len(seen) == 3


def test_only_a_server_told_to_is_timed(monkeypatch):
    monkeypatch.delenv(STEP_TIMER, raising=False)
    timer = step_timer("cpu", "model")
    assert type(timer) is NoTimer
    decode(timer, Clock())
    monkeypatch.setenv(STEP_TIMER, "1")
    timer = step_timer("cpu", "model")
    assert isinstance(timer, StepTimer) and isinstance(timer.clock, HostClock)
