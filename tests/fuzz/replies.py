"""A call asked over HTTP, and what two servers' replies to it may not differ in."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests

from domino_sglang.measure.sse import events as read_events
from tests.fuzz.calls import ABORTS, CHAT, GENERATE, LEAVES, WHOLE, Call, Json

TIMEOUT_S = 180
ABORT_AFTER_S = 0.3
EVENTS_BEFORE_LEAVING = 2
# Two servers sum in another order: log probabilities agree to this, and tokens this near may change places.
TOLERANCE = 2e-3
SERVED, REFUSED, FAILED, LOST = "served", "refused", "failed", "no answer"


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: of HTTP, or of the error in a stream; 0 where the connection broke or nothing came in time.
        choices: of each answer its text, its end and what else a client may rely on.
        message: of a refusal or a failure.
    """

    status: int
    choices: list[Json] = field(default_factory=list)
    message: str = ""

    @property
    def outcome(self) -> str:
        return {0: LOST, 2: SERVED, 4: REFUSED}.get(self.status // 100, FAILED)


def ask_all(url: str, calls: Sequence[Call]) -> list[Reply]:
    """All at once, as many clients would."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: ask(url, call), calls))


def ask(url: str, call: Call) -> Reply:
    body = call.body
    if call.ending == ABORTS:
        body = body | {"rid": uuid.uuid4().hex}
        threading.Timer(ABORT_AFTER_S, _abort, (url, body["rid"])).start()
    streams = bool(body.get("stream")) or call.ending == LEAVES
    body = body | {"stream": True} if streams else body
    try:
        with requests.post(url + call.path, json=body, stream=streams, timeout=TIMEOUT_S) as reply:
            if reply.status_code != 200:
                return Reply(reply.status_code, message=reply.text[:300])
            if not streams:
                return Reply(200, _choices(call, reply.json()))
            events = read_events(reply.iter_content(512))
            if call.ending == LEAVES:
                for _event, _ in zip(events, range(EVENTS_BEFORE_LEAVING), strict=False):
                    pass
                return Reply(200)
            return _of_stream(call, events)
    except (requests.RequestException, ValueError) as error:
        return Reply(0, message=f"{type(error).__name__}: {error}"[:300])


def _abort(url: str, rid: str) -> None:
    # A server that is gone is seen by whoever waits for the answer.
    with contextlib.suppress(requests.RequestException):
        requests.post(url + "/abort_request", json={"rid": rid}, timeout=TIMEOUT_S)


def _of_stream(call: Call, events: Iterable[Json]) -> Reply:
    last: dict[int, Json] = {}
    for event in events:
        if "error" in event:
            return Reply(int(event["error"].get("code") or 500), message=str(event["error"])[:300])
        if call.path == GENERATE:
            last[event.get("index", 0)] = event
            continue
        for piece in event["choices"]:
            whole = last.setdefault(piece["index"], {"text": "", "finish_reason": None})
            whole["text"] += (piece["delta"].get("content") if "delta" in piece else piece["text"]) or ""
            whole["finish_reason"] = piece.get("finish_reason") or whole["finish_reason"]
    if call.path == GENERATE:
        return Reply(200, _choices(call, [last[i] for i in sorted(last)]))
    return Reply(200, [last[i] for i in sorted(last)])


def _choices(call: Call, reply: Any) -> list[Json]:
    if call.path == GENERATE:
        return [_native(answer) for answer in (reply if isinstance(reply, list) else [reply])]
    if "choices" not in reply:
        return [{}]
    return [{**_openai(call, choice), "usage": _usage(reply)} for choice in reply["choices"]]


def _native(answer: Json) -> Json:
    meta = answer["meta_info"]
    kept = ("finish_reason", "prompt_tokens", "completion_tokens")
    logprobs = {name: _numbers(value) if "top" in name else value for name, value in meta.items() if "logprobs" in name}
    return {"text": answer["text"], "ids": answer["output_ids"], **{k: meta.get(k) for k in kept}, **logprobs}


def _openai(call: Call, choice: Json) -> Json:
    said = choice["message"] if call.path == CHAT else {"text": choice["text"]}
    said = {"text" if name == "content" else name: value for name, value in said.items() if name != "tool_calls"}
    kept = ("finish_reason", "matched_stop")
    return {**said, **{name: choice.get(name) for name in kept}, "logprobs": _numbers(choice.get("logprobs"))}


def _numbers(logprobs: Any) -> list[float]:
    """Without the names of the tokens: two that are equally likely may stand in either order."""
    if isinstance(logprobs, dict):
        logprobs = list(logprobs.values())
    if isinstance(logprobs, list):
        return [number for value in logprobs for number in _numbers(value)]
    return [logprobs] if isinstance(logprobs, float) else []


def _usage(reply: Json) -> Json:
    return {name: reply["usage"].get(name) for name in ("prompt_tokens", "completion_tokens")}


def difference(call: Call, ours: Reply, plain: Reply) -> str | None:
    """What ours may not be like this, in words that do not depend on the call; None when it may."""
    if ours.outcome == LOST:
        return None if plain.outcome == LOST else "no answer"
    if call.ending != WHOLE or plain.outcome in (FAILED, LOST):
        return None
    if ours.outcome != plain.outcome:
        return f"{ours.outcome} ({ours.status}) where plain decoding is {plain.outcome} ({plain.status})"
    if len(ours.choices) != len(plain.choices):
        return "another number of answers"
    if not call.is_greedy:
        return None
    for our, their in zip(ours.choices, plain.choices, strict=True):
        # Asked for no token, SGLang's speculative workers choose one and keep its log probability.
        own_rule = {name for name in their if "logprobs" in name} if 0 in _lengths(call) else set()
        for name in sorted((our.keys() | their.keys()) - own_rule):
            if not alike(our.get(name), their.get(name)):
                return f"{name} differs"
    return None


def _lengths(call: Call) -> set[Any]:
    names = ("max_new_tokens", "max_tokens", "max_completion_tokens")
    return {call.sampling[name] for name in names if name in call.sampling}


def alike(ours: Any, plain: Any) -> bool:
    """Equal, numbers to within a tolerance."""
    if isinstance(ours, dict) and isinstance(plain, dict):
        return ours.keys() == plain.keys() and all(alike(ours[key], plain[key]) for key in ours)
    if isinstance(ours, list) and isinstance(plain, list):
        return len(ours) == len(plain) and all(map(alike, ours, plain))
    if isinstance(ours, float) and isinstance(plain, float):
        return abs(ours - plain) <= TOLERANCE * max(1.0, abs(plain))
    return ours == plain


def is_close_call(url: str, call: Call) -> bool:
    """Whether plain decoding had to choose between two tokens that rounding alone may exchange."""
    two = {
        GENERATE: {"return_logprob": True, "top_logprobs_num": 2, "stream": False},
        CHAT: {"logprobs": True, "top_logprobs": 2, "stream": False},
    }.get(call.path, {"logprobs": 2, "stream": False})
    try:
        reply = requests.post(url + call.path, json=call.body | two, timeout=TIMEOUT_S).json()
    except (requests.RequestException, ValueError):
        return False
    return any(first - second < TOLERANCE for first, second in _leading(call, reply))


def _leading(call: Call, reply: Any) -> Iterable[tuple[float, float]]:
    """The two largest log probabilities at each position."""
    if call.path == GENERATE:
        for answer in reply if isinstance(reply, list) else [reply]:
            for tops in answer.get("meta_info", {}).get("output_top_logprobs") or ():
                if tops and len(tops) > 1:
                    yield tops[0][0], tops[1][0]
        return
    for choice in reply.get("choices", ()):
        found = choice.get("logprobs") or {}
        for entry in found.get("content") or ():
            values = sorted((top["logprob"] for top in entry["top_logprobs"]), reverse=True)
            if len(values) > 1:
                yield values[0], values[1]
        for tops in found.get("top_logprobs") or ():
            values = sorted((tops or {}).values(), reverse=True)
            if len(values) > 1:
                yield values[0], values[1]


def as_command(call: Call, url: str = "$URL") -> str:
    """The call for a shell."""
    body = json.dumps(call.body, ensure_ascii=True).replace("'", "'\\''")
    note = {WHOLE: "", LEAVES: "  # streamed, and the client leaves", ABORTS: "  # and /abort_request"}[call.ending]
    return f"curl -s {url}{call.path} -H 'Content-Type: application/json' -d '{body}'{note}"
