"""The proxy: what it passes on, what it refuses, and what it makes of servers in trouble."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from domino_sglang.measure.sse import events
from domino_sglang.playground.app import create_app
from tests.support.sglang_double import ACCEPTED, Double


def ask(url: str, prompt: str = "Hello", **question) -> list[dict]:
    body = {"messages": [{"role": "user", "content": prompt}], **question}
    with httpx.stream("POST", url + "/api/chat", json=body, timeout=30) as reply:
        assert reply.status_code == 200, reply.read()
        return list(events(reply.iter_bytes()))


def test_steps_of_an_answer(playground, double):
    events = ask(playground.url, "Hello", temperature=0.5, max_tokens=20)
    assert [event["tokens"] for event in events[1:5]] == list(ACCEPTED[:4])
    assert sum(event["tokens"] for event in events[:-1]) == 20
    assert events[0]["steps"] == 0
    assert {event["steps"] for event in events[1:-1]} == {1}
    assert events[-1] == {"event": "end", "reason": "length", "prompt_tokens": 5, "completion_tokens": 20, "steps": 6}
    assert double.requests[0]["sampling_params"] == {"temperature": 0.5, "max_new_tokens": 20}
    assert double.chats[0]["chat_template_kwargs"] == {"enable_thinking": False}


def test_characters_that_end_a_line_of_text_end_no_event(playground):
    *steps, end = ask(playground.url, "separators")
    assert end["event"] == "end"
    text = "".join(event["text"] for event in steps)
    assert text.startswith("one\u2028two three\u0085four one\u2028two")


def test_servers(playground, server):
    assert httpx.get(playground.url + "/api/servers").json() == [
        {"url": server.url, "ok": True, "model": "a-double", "algorithm": "DOMINO", "block_size": 8}
    ]


def test_a_server_of_plain_decoding(serve):
    plain = serve(Double(algorithm=None).app)
    found = httpx.get(serve(create_app([plain.url])).url + "/api/servers").json()
    assert (found[0]["algorithm"], found[0]["block_size"]) == (None, 1)


def test_a_server_that_is_not_there(playground, server):
    server.stop()
    assert "cannot reach" in httpx.get(playground.url + "/api/servers").json()[0]["error"]
    assert ask(playground.url)[-1]["kind"] == "lost"


def test_something_else_than_sglang(serve):
    other = serve(create_app([]))
    found = httpx.get(serve(create_app([other.url])).url + "/api/servers").json()
    assert found[0]["error"].startswith(f"{other.url}/server_info answered with status 404; give the URL")


@pytest.mark.parametrize(
    ("prompt", "kind", "words"),
    [
        ("too long", "refused", "longer than the context"),
        ("refuse late", "refused", "exceeds the maximum allowed length"),
        ("full house", "busy", "queue is full"),
        ("die", "lost", "broke off"),
    ],
)
def test_trouble(playground, prompt, kind, words):
    last = ask(playground.url, prompt)[-1]
    assert (last["event"], last["kind"]) == ("trouble", kind)
    assert words in last["message"]


@pytest.mark.parametrize(
    "question",
    [
        {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}], "temperature": 3},
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 0},
        {"messages": [{"role": "user", "content": "x"}], "server": 1},
    ],
)
def test_questions_that_make_no_sense(playground, double, question):
    assert httpx.post(playground.url + "/api/chat", json=question).status_code == 422
    assert double.requests == []


def test_foreign_pages_are_kept_out(playground, double):
    """A page elsewhere can send neither under a name of its own (DNS rebinding) nor without a CORS preflight."""
    assert httpx.get(playground.url, headers={"Host": "evil.example"}).status_code == 400
    body = json.dumps({"messages": [{"role": "user", "content": "x"}]})
    reply = httpx.post(playground.url + "/api/chat", content=body, headers={"Content-Type": "text/plain"})
    assert reply.status_code == 422
    assert double.requests == []


def test_the_page_needs_nothing_from_elsewhere(playground):
    reply = httpx.get(playground.url)
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    addresses = reply.text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in addresses and "https://" not in addresses
    assert "/*SETTINGS*/" not in reply.text


def test_the_api_key_travels_to_the_server(serve, double, monkeypatch):
    seen = []

    @double.app.middleware("http")
    async def remember(request, call_next):
        seen.append(request.headers.get("authorization"))
        return await call_next(request)

    playground = serve(create_app([serve(double.app).url], api_key="secret"))
    ask(playground.url)
    assert set(seen) == {"Bearer secret"}


def test_leaving_an_answer_aborts_it(serve):
    double = Double(tokens=400, pause_s=0.05)
    playground = serve(create_app([serve(double.app).url]))
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 400}
    with httpx.stream("POST", playground.url + "/api/chat", json=body) as reply:
        next(reply.iter_lines())
    deadline = time.monotonic() + 10
    while not double.aborted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert double.aborted == 1
