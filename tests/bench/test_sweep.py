"""A whole sweep over servers that are not there: order, crashes, Ctrl-C, report."""

import json

import pytest

from domino_sglang.bench.common.arms import Arm
from domino_sglang.bench.common.fleet import Fleet
from domino_sglang.bench.common.rows import read_run
from domino_sglang.bench.common.server_metrics import Decoding
from domino_sglang.bench.sweep import command as sweep_module
from domino_sglang.bench.sweep.command import INTERRUPTED, Settings, Sweep
from domino_sglang.bench.sweep.crosscheck import cross_check
from domino_sglang.bench.sweep.load import Interrupted
from domino_sglang.bench.sweep.point import Point
from domino_sglang.bench.sweep.report import write_report
from domino_sglang.bench.sweep.report_data import SweepData
from domino_sglang.bench.sweep.rows import CrashRow, CrossCheckRow, PointRow, RequestRow, SweepSettings
from domino_sglang.measure.server_process import ServerFailed
from domino_sglang.measure.workloads import chat
from domino_sglang.names import STEP_PARTS as PARTS

ARMS = [Arm("AR"), Arm("base"), Arm("DOMINO")]
SPEED = {"AR": 1.0, "base": 1.5, "DOMINO": 2.0}


class Machine:
    """Servers and load that take no time and know what happened to them."""

    def __init__(self, ctrl_c_at=None, dies_at=()):
        self.started, self.measured = [], []
        self.ctrl_c_at, self.dies_at = ctrl_c_at, list(dies_at)
        self.dead = set()

    def launch(self, arm, _logs):
        self.started.append(arm.name)
        self.dead.discard(arm.name)
        machine = self

        class Server:
            url = f"fake://{arm.name}"

            def start(self):
                return self

            def wait_until_ready(self, timeout_s, tick=None):
                if arm.name == "broken":
                    raise ServerFailed("the server ended with status 1:\n/home/someone/model is no folder")
                return self

            def is_alive(self):
                return arm.name not in machine.dead

            def log_tail(self, lines=30):
                return "CUDA out of memory in /secret/place/file.py"

            def stop(self):
                pass

        return Server()

    def measure(self, url, asked):
        arm = url.removeprefix("fake://")
        warm_up = asked.max_tokens != 32
        if not warm_up:
            self.measured.append((arm, asked.users, asked.temperature))
        count = len(asked.prompts)
        seconds = 1.0 / SPEED.get(arm, 1.0)
        rows = [
            RequestRow(prompt.workload, i // asked.users * seconds, 0.1 * seconds, seconds, 7, 11)
            for i, prompt in enumerate(asked.prompts)
        ]
        if not warm_up and len(self.measured) == self.ctrl_c_at:
            raise Interrupted(rows[: count // 2])
        if not warm_up and len(self.measured) in self.dies_at:
            self.dead.add(arm)
            gone = RequestRow("chat", 0.0, None, 0.1, 0, 0, error="ConnectionError: refused")
            return [*rows[: count // 2], *[gone] * (count - count // 2)]
        return rows


def settings(**changes):
    values = {
        "prompts": {"chat": chat()},
        "temperatures": (0.0, 1.0),
        "concurrencies": (1, 2),
        "repetitions": 3,
        "requests_per_user": 5,
        "max_tokens": 32,
        "ignore_eos": False,
        "together": True,
    }
    return Settings(**(values | changes))


@pytest.fixture(autouse=True)
def counters(monkeypatch):
    """What ``/metrics`` would say: the drafting arms accept, and time their steps."""
    scraped = []

    def scrape(url):
        scraped.append(url.removeprefix("fake://"))
        return {}

    def between(_before, _after):
        if scraped[-1] not in ("base", "DOMINO"):
            return Decoding()
        shares = [0.8, 0.5, 0.2] if scraped[-1] == "DOMINO" else [0.6, 0.2, 0.1]
        return Decoding(1 + sum(shares), shares, 100, {part: 1.0 + i for i, part in enumerate(PARTS)})

    monkeypatch.setattr(sweep_module.server_metrics, "scrape", scrape)
    monkeypatch.setattr(sweep_module.server_metrics, "between", between)
    monkeypatch.setattr(sweep_module.load, "flush_cache", lambda _url: True)


def run(tmp_path, machine, arms=ARMS, **changes):
    chosen = settings(**changes)
    sweep_module._write_head(tmp_path, arms, chosen)
    with Fleet(tmp_path, chosen.together, machine.launch) as fleet:
        sweep = Sweep(
            arms, chosen, fleet, tmp_path / "rows.jsonl", tmp_path / "requests.jsonl", measure=machine.measure
        )
        status = sweep.run()
    _head, rows = read_run(tmp_path / "rows.jsonl", SweepSettings, PointRow, CrashRow, CrossCheckRow)
    return status, rows


def test_a_whole_sweep(tmp_path):
    machine = Machine()
    status, rows = run(tmp_path, machine)
    assert status == 0
    assert machine.started == ["AR", "base", "DOMINO"], "each server starts once"
    assert len(rows) == 3 * 2 * 2 * 3 and all(row.complete for row in rows)
    data = SweepData.read(tmp_path)
    panel = ("chat", 0.0)
    assert data.panels == [("chat", 0.0), ("chat", 1.0)]
    assert data.tokens_per_s(panel, "AR", 1).median == pytest.approx(11.0)
    assert data.tokens_per_s(panel, "AR", 2).median == pytest.approx(22.0)
    assert data.speedup(panel, "DOMINO", 2).median == pytest.approx(2.0)
    assert data.latency_ms("ttft", panel, "AR", 1)["p99"] == pytest.approx(100.0)
    assert data.latency_ms("tpot", panel, "AR", 1)["p50"] == pytest.approx(90.0)
    assert data.acceptance_length(panel, "DOMINO") == pytest.approx(2.5)
    assert data.acceptance_by_position(panel, "base") == pytest.approx([0.6, 0.2, 0.1])
    assert data.step_ms(panel, "DOMINO", 1)["draft"] == 1.0


def test_the_report_holds_every_table_and_picture(tmp_path):
    run(tmp_path, Machine())
    text = write_report(tmp_path).read_text()
    for words in ("- hardware:", "- commit:", "- command:", "Speedup over AR", "2.00", "p50 / p95 / p99", "verify"):
        assert words in text
    assert "36 of 36 planned points are complete; 0 of 270 requests failed." in text
    for picture in ("throughput.png", "latency.png", "acceptance.png", "steps.png"):
        assert f"({picture})" in text
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_a_server_that_was_up_is_warmed_too(tmp_path, monkeypatch):
    machine, warmed = Machine(), []
    monkeypatch.setattr("domino_sglang.bench.common.fleet.answers", lambda _url: True)
    monkeypatch.setattr(Sweep, "_warm_up", lambda _self, url: warmed.append(url))
    run(tmp_path, machine, arms=[Arm("AR"), Arm("mine", url="fake://mine")])
    assert sorted(warmed) == ["fake://AR", "fake://mine"]


def test_repetitions_ask_other_prompts_and_arms_the_same():
    chosen = settings()
    point = Point("chat", 0.0, 2)
    assert chosen.load(point, 0) == chosen.load(point, 0)
    assert chosen.load(point, 0).prompts != chosen.load(point, 1).prompts
    assert len(chosen.load(point, 0).prompts) == 10


def test_a_crash_is_recorded_and_the_server_gets_another_chance(tmp_path):
    machine = Machine(dies_at=[3])
    status, rows = run(tmp_path, machine)
    assert status == 1
    victim = machine.measured[2][0]
    crash = next(row for row in rows if isinstance(row, CrashRow))
    assert crash.arm == victim and "repetition 1" in crash.during
    assert "out of memory" in crash.reason and "/secret/place" not in crash.reason
    assert machine.started.count(victim) == 2
    points = [row for row in rows if isinstance(row, PointRow)]
    assert sum(not row.complete for row in points) == 1
    assert len(points) == 36, "every other point was measured"
    text = write_report(tmp_path).read_text()
    assert f"**{victim} crashed** during chat, temperature 0" in text and "**cut short**" in text
    assert "35 of 36 planned points are complete" in text


def test_an_arm_that_cannot_start_leaves_the_others_alone(tmp_path):
    machine = Machine()
    status, rows = run(tmp_path, machine, arms=[ARMS[0], Arm("broken")])
    assert status == 1
    assert machine.started.count("broken") == 2, "tried twice, then left out"
    assert {row.arm for row in rows if isinstance(row, PointRow)} == {"AR"}
    assert sum(isinstance(row, CrashRow) for row in rows) == 2
    text = write_report(tmp_path).read_text()
    assert "**broken crashed**" in text and "/home/someone" not in text


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    status, rows = run(tmp_path, Machine(ctrl_c_at=5))
    assert status == INTERRUPTED
    assert [row.complete for row in rows] == [True] * 4 + [False]
    assert "4 of 36 planned points are complete" in write_report(tmp_path).read_text()


def test_ctrl_c_before_anything_still_reports(tmp_path):
    status, rows = run(tmp_path, Machine(ctrl_c_at=1))
    assert status == INTERRUPTED and len(rows) == 1
    assert "0 of 36 planned points" in write_report(tmp_path).read_text()


def test_one_server_at_a_time_where_memory_is_short(tmp_path):
    machine = Machine()
    run(tmp_path, machine, together=False, repetitions=2)
    assert machine.started == ["AR", "base", "DOMINO", "base", "DOMINO", "AR"]


def test_the_cross_check_compares_medians(monkeypatch):
    machine = Machine()
    monkeypatch.setattr("domino_sglang.bench.sweep.load.run", machine.measure)
    asked = settings().load(Point("chat", 0.0, 2), 0)
    theirs = iter([20.0, 21.0, 30.0])
    row = cross_check("AR", "fake://AR", Point("chat", 0.0, 2), asked, 3, theirs=lambda _url, _load: next(theirs))
    assert row.locust_tokens_per_s == pytest.approx([22.0] * 3)
    assert row.difference == pytest.approx(22 / 21 - 1) and row.agrees

    def fails(_url, _load):
        raise RuntimeError("sglang.bench_serving failed with status 1")

    row = cross_check("AR", "fake://AR", Point("chat", 0.0, 2), asked, 3, theirs=fails)
    assert row.error is not None and not row.agrees


def test_rows_are_json_lines_with_null_for_nothing(tmp_path):
    run(tmp_path, Machine(), arms=ARMS[:1], repetitions=1, temperatures=(0.0,), concurrencies=(1,))
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["acceptance_length"] is None
    assert "NaN" not in "".join(lines)
