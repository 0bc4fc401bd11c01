"""The fuzzer finds what two servers differ in, makes it small, and draws the same again from the same seed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.fuzz.arms import draw_flags
from tests.fuzz.calls import ABORTS, CHAT, COMPLETION, GENERATE, WHOLE, Call
from tests.fuzz.campaign import ENDED, Search
from tests.fuzz.hostile import HOSTILE
from tests.fuzz.hunting import Findings, Found
from tests.fuzz.replies import Reply, alike, ask, difference

FOREVER = 3600.0


class FakeArm:
    """Answers every request with its sampling parameters, but for the fault given to it.

    Args:
        fault: body -> the status it answers with instead, None for none, ``"death"`` for no server from then on.
    """

    def __init__(self, fault: Callable[[dict[str, Any]], int | str | None] = lambda body: None):
        self.fault, self.starts, self.bodies = fault, 0, []
        self.alive = True
        arm = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args) -> None:
                pass

            def do_POST(self) -> None:
                arm.answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        if request.path != "/abort_request":
            self.bodies.append(body)
        fault = self.fault(body)
        if fault == "death":
            self.alive = False
        if not self.alive:
            return request.connection.close()
        status, reply = (fault, {"error": "no"}) if isinstance(fault, int) else (200, self.reply(request.path, fault))
        data = json.dumps(reply).encode()
        if body.get("stream") and status == 200:
            data = b"data: " + data + b"\n\ndata: [DONE]\n\n"
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def reply(self, path: str, fault: str | None) -> dict[str, Any]:
        text = fault or "answer"
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        if path == GENERATE:
            # An answer that was aborted before it began says no more than this.
            meta = {"finish_reason": {"type": "abort"}} if fault == "aborted" else usage | {"finish_reason": {}}
            return {"text": text, "output_ids": [1], "meta_info": meta}
        return {"choices": [{"index": 0, "message": {"content": text}, "text": text}], "usage": usage}

    def is_alive(self) -> bool:
        return self.alive

    def restart(self) -> None:
        self.alive, self.starts = True, self.starts + 1

    def last_words(self) -> str:
        return "IndexError: out of range"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def search():
    """A pair of servers, of which ours has a fault; what a search with this seed finds."""
    arms = []

    def found(fault, *, plain_fault=lambda body: None, number: int = 0, examples: int = 400) -> list[Found]:
        findings = Findings(say=lambda line: None)
        arms.extend((FakeArm(fault), FakeArm(plain_fault)))
        Search(*arms[-2:], "--some-flag", findings).run(number, time.monotonic() + FOREVER, examples)
        return findings.found

    yield found
    for arm in arms:
        arm.close()


def sampling(body: dict[str, Any]) -> dict[str, Any]:
    return body.get("sampling_params", body)


def test_equal_servers_have_nothing_to_find(search):
    assert search(lambda body: None, examples=40) == []


def test_an_aborted_answer_is_an_answer():
    arm = FakeArm(lambda body: "aborted")
    reply = ask(arm.url, Call(GENERATE, {"text": "a"}, ABORTS))
    assert reply.outcome == "served" and reply.choices[0]["finish_reason"] == {"type": "abort"}
    arm.close()


def test_another_text_is_found_and_made_small(search):
    (failure,) = search(lambda body: "other" if "stop" in sampling(body) else None)
    assert failure.what == "text differs"
    flags, *calls = failure.shown
    assert flags == "flags: --some-flag"
    assert len(calls) == 1 and calls[0].startswith("curl ")
    assert failure.features - {CHAT, COMPLETION, GENERATE, WHOLE} == {"stop"}


def test_a_refusal_where_plain_decoding_serves(search):
    (failure,) = search(lambda body: 400 if "regex" in sampling(body) else None)
    assert failure.what == "refused (400) where plain decoding is served (200)"
    assert "regex" in failure.features


def test_a_failure_where_plain_decoding_refuses(search):
    def refuses(body):
        return 400 if "ebnf" in sampling(body) else None

    (failure,) = search(lambda body: 500 if refuses(body) else None, plain_fault=refuses)
    assert failure.what == "failed (500) where plain decoding is refused (400)"


def test_death_is_pinned_on_one_call_and_the_server_started_again(search):
    (failure,) = search(lambda body: "death" if "logit_bias" in sampling(body) else None)
    assert failure.what == ENDED and failure.detail == "IndexError: out of range"
    assert "logit_bias" in failure.features
    assert len(failure.shown) == 2


def test_death_of_both_is_no_failure_of_ours(search):
    def dies(body):
        return "death" if "ebnf" in sampling(body) else None

    assert search(dies, plain_fault=dies, examples=60) == []


def test_the_same_seed_asks_the_same():
    asked = []
    for _ in range(2):
        arms = FakeArm(), FakeArm()
        Search(*arms, "", Findings(say=print)).run(7, time.monotonic() + FOREVER, 20)
        asked.append(sorted(json.dumps(body | {"rid": ""}, sort_keys=True) for body in arms[0].bodies))
        for arm in arms:
            arm.close()
    assert asked[0] == asked[1] and len(asked[0]) >= 20
    import random

    assert draw_flags(random.Random(3)) == draw_flags(random.Random(3))


def test_hostile_calls_are_answered_or_found():
    arms = (
        FakeArm(lambda body: "death" if body.get("text") == "" else 500 if "token_ids_logprob" in body else 400),
        FakeArm(),
    )
    findings = Findings(say=lambda line: None)
    Search(*arms, "", findings).hostile(time.monotonic() + FOREVER)
    assert [failure.what for failure in findings.found] == [ENDED, "failed (500)", "failed (500)"]
    assert arms[0].starts == 1 and len(arms[0].bodies) == len(HOSTILE)
    for arm in arms:
        arm.close()


def test_what_is_known_is_counted_and_not_reported_again():
    findings = Findings(say=lambda line: None)
    first = Found("text differs", frozenset({"stop"}), [])
    findings.add(first)
    assert not findings.is_new(replace(first, features=frozenset({"stop", "n"})))
    assert findings.is_new(replace(first, features=frozenset({"n"})))
    assert first.count == 2


def test_sampled_answers_may_differ_and_greedy_ones_may_not():
    ours, plain = (Reply(200, [{"text": text}]) for text in "ab")
    greedy, sampled = (Call(GENERATE, {"sampling_params": {"temperature": value}}) for value in (0, 1.0))
    assert difference(greedy, ours, plain) == "text differs"
    assert difference(sampled, ours, plain) is None
    assert difference(sampled, Reply(200, []), plain) == "another number of answers"


def test_asked_for_no_token_a_log_probability_is_no_difference():
    ours, plain = (Reply(200, [{"text": "", "output_token_logprobs": found}]) for found in ([[-1.0, 5, None]], []))
    none, one = (Call(GENERATE, {"sampling_params": {"temperature": 0, "max_new_tokens": n}}) for n in (0, 1))
    assert difference(none, ours, plain) is None
    assert difference(one, ours, plain) == "output_token_logprobs differs"


def test_numbers_are_alike_to_within_rounding():
    assert alike({"a": [1.0, -3.00001]}, {"a": [1.0, -3.0]})
    assert not alike([1.0], [1.01]) and not alike({"a": 1}, {"b": 1}) and not alike([1], [1, 2])


def test_a_connection_that_breaks_is_no_answer():
    arm = FakeArm(lambda body: "death")
    assert ask(arm.url, Call(GENERATE, {"text": "a"})).outcome == "no answer"
    arm.close()
