"""The soak's load and checks against a fake server."""

import argparse
import os
import random

import pytest

from domino_sglang.bench.common.arms import Arm
from domino_sglang.bench.soak import command as soak_module
from domino_sglang.bench.soak.command import _judge, soak
from domino_sglang.bench.soak.health import group_memory, memory_growth, wait_until_idle
from domino_sglang.bench.soak.kinds import KINDS, WrongReply
from domino_sglang.bench.soak.rows import ANSWERED, DISCONNECTED, FAILED, Soak
from domino_sglang.measure.client import Client
from tests.bench.fake_server import Behaviour, FakeServer

BY_NAME = {kind.name: kind for kind in KINDS}


def arguments(**changes):
    values = {
        "minutes": 0.05,
        "concurrency": 4,
        "disconnects": 0.3,
        "probe_every": 1.0,
        "memory_limit": 0.05,
        "seed": 0,
        "url": "x",
        "pid": None,
    }
    return argparse.Namespace(**(values | changes))


def only(monkeypatch, *names):
    monkeypatch.setattr("domino_sglang.bench.soak.load.KINDS", tuple(BY_NAME[name] for name in names))
    users = soak_module.Users
    kinds = tuple(BY_NAME[name] for name in names)
    monkeypatch.setattr(soak_module, "Users", lambda *args: users(*args, kinds=kinds))


def reply(text="fine", finish="stop", tokens=16, **more):
    choice = {"index": 0, "finish_reason": finish, "message": {"content": text}} | more
    return {"choices": [choice], "usage": {"completion_tokens": tokens}}


def test_a_healthy_server_passes_and_a_report_says_so(tmp_path, monkeypatch):
    only(monkeypatch, "chat", "completion", "penalties", "n = 3", "logprobs")
    with FakeServer(Behaviour(ttft_s=0.01, tpot_s=0.002)) as server:
        users, found = soak(server.url, arguments(), os.getpgid(0))
        counts = found.counts
        status = soak_module._report(tmp_path, Arm("DOMINO", url=server.url), arguments(), users, found)
    assert found.problems == [] and status == 0
    assert counts[ANSWERED] > 0 and counts[DISCONNECTED] > 0 and counts[FAILED] == 0
    assert found.used_tokens == [0, 0] and found.probes_first_last_equal
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Soak: passed") and "| failed requests | 0 |" in text
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_failures_and_leaks_fail_the_soak(tmp_path, monkeypatch):
    only(monkeypatch, "chat")
    behaviour = Behaviour(answers_until_death=10)
    with FakeServer(behaviour) as server:
        users, found = soak(server.url, arguments(minutes=0.03), None)
        status = soak_module._report(tmp_path, Arm("DOMINO", url=server.url), arguments(), users, found)
    assert status == 1 and found.counts[FAILED] > 0
    assert (tmp_path / "report.md").read_text().startswith("# Soak: FAILED")


def test_what_is_judged():
    found = Soak(1.0, {FAILED: 0}, used_tokens=[0, 24], probes_first_last_equal=False, memory_growth=0.2)
    _judge(found, memory_limit=0.05)
    assert [problem.split()[0] for problem in found.problems] == ["KV", "the", "memory"]
    fine = Soak(1.0, {FAILED: 0}, used_tokens=[3, 3], probes_first_last_equal=True, memory_growth=0.01)
    _judge(fine, memory_limit=0.05)
    assert fine.problems == []


def test_idle_slots_are_read_from_the_server():
    with FakeServer(Behaviour(used_tokens=5)) as server:
        assert wait_until_idle(Client(server.url)).used_tokens == 5


def test_memory_growth_leaves_the_warm_up_out():
    rising = [(float(t), 100 if t < 10 else 200) for t in range(100)]
    assert memory_growth(rising) == 0.0
    leaking = [(float(t), 1000 + 10 * t) for t in range(100)]
    assert memory_growth(leaking) > 0.3
    assert memory_growth(rising[:5]) is None


def test_memory_of_a_process_group_is_seen():
    assert group_memory(os.getpgid(0)) > 10_000_000
    assert group_memory(2**30) == 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_asks_a_whole_request(kind):
    for seed in range(20):
        body = kind.body(random.Random(seed))
        assert ("messages" in body) == kind.path.endswith("chat/completions")
        assert body["max_tokens"] >= 8 and 0 <= body["temperature"] <= 1


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("json schema", reply('{"name": "Ada", "age": 36}'), reply('{"name": "Ada"}')),
        ("regex", reply("Yes, because bread is honest."), reply("Perhaps.")),
        ("stop strings", reply("one two"), reply("and the two")),
        ("min_tokens", reply(tokens=12), reply(tokens=11)),
        ("n = 3", {"choices": [{"index": i} for i in range(3)]}, {"choices": [{"index": 0}]}),
        (
            "logprobs",
            reply(tokens=1, logprobs={"content": [{"logprob": -0.5}]}),
            reply(tokens=2, logprobs={"content": [{"logprob": -0.5}]}),
        ),
    ],
)
def test_a_wrong_reply_is_told_from_a_right_one(name, good, bad):
    BY_NAME[name].check(good)
    with pytest.raises(WrongReply):
        BY_NAME[name].check(bad)


def test_an_answer_cut_by_its_limit_need_not_be_whole():
    BY_NAME["json schema"].check(reply('{"name": "A', finish="length"))
    BY_NAME["regex"].check(reply("Yes, bec", finish="length"))
