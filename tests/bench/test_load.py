"""Locust itself, in a process of its own, against a server whose delays are known."""

import json

from domino_sglang.bench.sweep import load
from domino_sglang.bench.sweep.crosscheck import bench_serving
from domino_sglang.bench.sweep.load import Load
from domino_sglang.bench.sweep.point import Point, summarise
from domino_sglang.demo import prepare_target
from domino_sglang.measure.workloads import chat, take
from tests.bench.fake_server import PROMPT_TOKENS, Behaviour, FakeServer

TOKENS, TTFT_S, TPOT_S, USERS, REQUESTS = 9, 0.15, 0.02, 2, 10


def test_a_point_measures_what_the_server_does():
    behaviour = Behaviour(ttft_s=TTFT_S, tpot_s=TPOT_S, tokens=TOKENS, tokens_per_chunk=4)
    asked = Load(take(chat(), REQUESTS), users=USERS, max_tokens=TOKENS, temperature=1.0)
    with FakeServer(behaviour) as server:
        rows = load.run(server.url, asked)
    assert len(rows) == REQUESTS and all(row.error is None for row in rows)
    assert {row.workload for row in rows} == {"chat"}
    assert all((row.prompt_tokens, row.completion_tokens) == (PROMPT_TOKENS, TOKENS) for row in rows)
    # Sleeps are lower bounds; what a busy machine adds has no upper one.
    assert min(row.ttft for row in rows) >= TTFT_S
    assert min(row.seconds for row in rows) >= TTFT_S + (TOKENS - 1) * TPOT_S
    point = summarise("AR", Point("chat", 1.0, USERS), 0, rows, REQUESTS, None)
    assert point.complete and point.failures == 0
    assert point.output_tokens == REQUESTS * TOKENS
    assert point.tokens_per_s * point.seconds == REQUESTS * TOKENS
    assert point.seconds >= REQUESTS / USERS * (TTFT_S + (TOKENS - 1) * TPOT_S)
    sent = [body["messages"][0]["content"] for body in behaviour.bodies]
    assert sorted(sent) == sorted(prompt.messages[0]["content"] for prompt in asked.prompts)
    for body in behaviour.bodies:
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("fake", TOKENS, 1.0)
        assert body["stream"] and "workload" not in body


def test_failed_requests_are_rows_too():
    asked = Load(take(chat(), 4), users=2, max_tokens=4, temperature=0.0)
    with FakeServer(Behaviour(answers_until_death=1)) as server:
        rows = load.run(server.url, asked)
    point = summarise("AR", Point("chat", 0.0, 2), 0, rows, 4, None)
    assert (point.requests, point.failures, point.complete) == (4, 3, False)
    assert len(point.errors) == 1 and "500" in point.errors[0]


def test_sglangs_benchmark_can_read_the_same_requests(tmp_path):
    Load(take(chat(), 3), users=1, max_tokens=5, temperature=0.6, ignore_eos=True).write(tmp_path / "asked.jsonl")
    bodies = [json.loads(line) for line in (tmp_path / "asked.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [body["max_tokens"] for body in bodies] == [5, 5, 5]
    assert all(body["temperature"] == 0.6 and body["ignore_eos"] for body in bodies)
    assert bodies[0]["messages"][0]["role"] == "user"


def test_sglangs_benchmark_counts_the_tokens_that_were_answered():
    target = prepare_target()
    behaviour = Behaviour(ttft_s=0.5, tokens=3, tokenizer=str(target))
    asked = Load(take(chat(), 4), users=1, max_tokens=64, temperature=0.0)
    with FakeServer(behaviour) as server:
        rate = bench_serving(server.url, asked)
    # Three tokens take half a second; 64, what was asked for, would be 128 a second.
    assert 0 < rate <= 6
    assert behaviour.bodies[-1]["stream_options"] == {"include_usage": True}
