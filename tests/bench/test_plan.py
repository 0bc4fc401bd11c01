from domino_sglang.bench.common.arms import Arm
from domino_sglang.bench.sweep.plan import Progress, plan
from domino_sglang.bench.sweep.point import Point

ARMS = [Arm("AR"), Arm("base"), Arm("DOMINO")]
POINTS = [Point("chat", 0.0, 1), Point("chat", 0.0, 2)]


def test_arms_take_turns_at_every_point_when_all_are_up():
    steps = plan(ARMS, POINTS, repetitions=3, together=True)
    assert len(steps) == 18
    for start in range(0, 18, 3):
        turn = steps[start : start + 3]
        assert {step.arm.name for step in turn} == {"AR", "base", "DOMINO"}
        assert len({(step.point, step.repetition) for step in turn}) == 1
    assert len({steps[start].arm.name for start in range(0, 18, 3)}) == 3, "no arm is always first"
    assert [step.repetition for step in steps] == sorted(step.repetition for step in steps)


def test_each_server_starts_once_a_repetition_when_one_fits():
    steps = plan(ARMS, POINTS, repetitions=2, together=False)
    order = [step.arm.name for step in steps]
    assert order == ["AR", "AR", "base", "base", "DOMINO", "DOMINO", "base", "base", "DOMINO", "DOMINO", "AR", "AR"]


def test_remaining_time_is_told_by_the_same_arm_and_point_first():
    steps = plan(ARMS[:2], POINTS[:1], repetitions=2, together=True)
    progress = Progress(steps)
    assert progress.remaining_s() is None
    assert progress.text() == "[1/4]"
    progress.done(steps[0], 10.0)
    assert progress.remaining_s() == 30.0
    progress.done(steps[1], 20.0)
    assert progress.remaining_s() == 30.0
    assert progress.text() == "[3/4, about 1 min left]"
    progress.skipped(steps[2])
    assert progress.remaining_s() == 10.0
