"""The client against a server whose answers are known, and events cut in every place."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from domino_sglang.measure.client import Client
from domino_sglang.measure.sse import EventReader, events
from tests.bench.fake_server import Behaviour, FakeServer

ODD = {"text": "U+2028 \u2028, U+0085 \x85, tab \t, newline \n, data: [DONE]"}
STREAM = b": a comment\r\n\r\ndata: {}\r\n\r\n" + f"data:{json.dumps(ODD, ensure_ascii=False)}\n\n".encode()
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_wherever_the_bytes_are_cut(size):
    whole = STREAM + b"data: [DONE]\n\ndata: never read\n\n"
    assert list(events(whole[i : i + size] for i in range(0, len(whole), size))) == [{}, ODD]


def test_half_an_event_waits_for_the_rest():
    reader = EventReader()
    assert reader.feed(STREAM[:-5]) == [{}] and reader.feed(STREAM[-5:]) == [ODD] and not reader.done


def test_a_server_asked_every_way():
    with FakeServer(Behaviour(tokens=5, used_tokens=3)) as server, Client(server.url) as client:
        assert client.answers() and client.served_model() == "fake"
        assert client.told("/v1/loads")["loads"][0]["num_used_tokens"] == 3
        assert client.ask("/v1/chat/completions", {"messages": []})["usage"]["completion_tokens"] == 5
        client.flush_cache()
        with client.stream("/v1/chat/completions", CHAT) as stream:
            *_, last = stream
        assert last["usage"]["completion_tokens"] == 5
        assert client.get("/nothing").status_code == 404


def test_a_refusal_carries_the_servers_words():
    with FakeServer(Behaviour(answers_until_death=0)) as server, Client(server.url) as client:
        for way in (lambda: client.ask("/generate", {}), lambda: client.stream("/generate", {}).__enter__()):
            with pytest.raises(httpx.HTTPStatusError, match=r'/generate answered with status 500: \{"error": "dead"\}'):
                way()
        assert client.post("/generate", {}).status_code == 500
    assert not Client(server.url).answers()


def test_leaving_a_stream_hangs_up():
    behaviour = Behaviour(tokens=1000, tpot_s=0.01)
    with FakeServer(behaviour) as server, Client(server.url) as client:
        with client.stream("/v1/chat/completions", CHAT) as stream:
            next(stream)
        deadline = time.monotonic() + 10
        while not behaviour.hung_up and time.monotonic() < deadline:
            time.sleep(0.02)
    assert behaviour.hung_up == 1


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with FakeServer() as server, Client(server.url) as client:
        assert client.answers()
