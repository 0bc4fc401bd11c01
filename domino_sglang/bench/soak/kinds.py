"""The kinds of requests a soak mixes: what each asks, and what its reply must hold."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from domino_sglang.measure.workloads import chat, take

Json = dict[str, Any]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"

_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
_REGEX = r"(Yes|No), because [a-z ]{5,30}\."
_STOPS = [" the", "\n\n"]


class WrongReply(AssertionError):
    """A reply that answers with success but does not hold what was asked for."""


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        path: endpoint.
        body: random numbers -> request, without its model.
        check: reply -> raises :class:`WrongReply` when it is wrong.
        streams: whether it may be streamed.
    """

    name: str
    path: str
    body: Callable[[random.Random], Json]
    check: Callable[[Json], None]
    streams: bool = True


def common_check(reply: Json) -> None:
    """What every reply has: choices with a text and an end, and a usage."""
    for choice in reply["choices"]:
        _require(choice.get("finish_reason") in ("stop", "length"), f"finish_reason {choice.get('finish_reason')!r}")
        _require(isinstance(text(choice), str), "a choice without text")
    _require(reply["usage"]["completion_tokens"] >= 1, "no completion tokens")


def text(choice: Json) -> Any:
    return choice["message"]["content"] if "message" in choice else choice["text"]


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise WrongReply(what)


def _sampling(draw: random.Random) -> Json:
    temperature = draw.choice([0.0, 0.6, 1.0, 1.0])
    sampling: Json = {"temperature": temperature, "max_tokens": draw.choice([8, 24, 48])}
    if temperature and draw.random() < 0.5:
        sampling |= draw.choice([{"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.05}, {"seed": draw.randrange(1000)}])
    return sampling


def _message(draw: random.Random) -> Json:
    prompt = take(chat(), 1, draw.randrange(len(chat())))[0]
    return {"messages": list(prompt.messages)}


def _chat(draw: random.Random) -> Json:
    return _message(draw) | _sampling(draw)


def _completion(draw: random.Random) -> Json:
    start = draw.choice(["Once upon a time", "def fibonacci(n):", "The capital of Norway is", "1, 1, 2, 3, 5, 8,"])
    return {"prompt": start} | _sampling(draw)


def _json_schema(draw: random.Random) -> Json:
    message = {"messages": [{"role": "user", "content": "Invent a sailor. Answer in JSON."}]}
    schema = {"type": "json_schema", "json_schema": {"name": "sailor", "schema": _SCHEMA}}
    return message | _sampling(draw) | {"max_tokens": 64, "response_format": schema}


def _check_json_schema(reply: Json) -> None:
    for choice in reply["choices"]:
        if choice["finish_reason"] == "stop":
            value = json.loads(text(choice))
            _require(set(value) == {"name", "age"}, f"keys {sorted(value)}")
            _require(isinstance(value["name"], str) and 1 <= value["age"] <= 99, f"values {value}")


def _regex(draw: random.Random) -> Json:
    message = {"messages": [{"role": "user", "content": "Is bread better than cake?"}]}
    return message | _sampling(draw) | {"max_tokens": 48, "regex": _REGEX}


def _check_regex(reply: Json) -> None:
    for choice in reply["choices"]:
        if choice["finish_reason"] == "stop":
            _require(re.fullmatch(_REGEX, text(choice)) is not None, f"{text(choice)!r} does not match {_REGEX!r}")


def _penalties(draw: random.Random) -> Json:
    penalty = draw.choice([{"frequency_penalty": 0.7}, {"presence_penalty": 0.9}, {"repetition_penalty": 1.3}])
    return _message(draw) | _sampling(draw) | penalty


def _min_tokens(draw: random.Random) -> Json:
    return _message(draw) | _sampling(draw) | {"max_tokens": 24, "min_tokens": 12}


def _check_min_tokens(reply: Json) -> None:
    tokens = reply["usage"]["completion_tokens"]
    _require(12 <= tokens <= 24, f"{tokens} tokens where 12 to 24 were asked for")


def _stop(draw: random.Random) -> Json:
    return _message(draw) | _sampling(draw) | {"max_tokens": 48, "stop": _STOPS}


def _check_stop(reply: Json) -> None:
    for choice in reply["choices"]:
        found = [stop for stop in _STOPS if stop in text(choice)]
        _require(not found, f"the text holds stop strings {found}")


def _several(draw: random.Random) -> Json:
    return _message(draw) | _sampling(draw) | {"temperature": 1.0, "n": 3}


def _check_several(reply: Json) -> None:
    indices = sorted(choice["index"] for choice in reply["choices"])
    _require(indices == [0, 1, 2], f"choices {indices} where 3 were asked for")


def _logprobs(draw: random.Random) -> Json:
    return _message(draw) | _sampling(draw) | {"logprobs": True, "top_logprobs": 3}


def _check_logprobs(reply: Json) -> None:
    for choice in reply["choices"]:
        content = choice["logprobs"]["content"]
        tokens = reply["usage"]["completion_tokens"]
        _require(len(content) == tokens, f"{len(content)} logprobs for {tokens} tokens")
        _require(all(entry["logprob"] <= 1e-3 for entry in content), "a logprob above 0")


def _nothing_more(_reply: Json) -> None:
    pass


KINDS = (
    Kind("chat", CHAT, _chat, _nothing_more),
    Kind("completion", COMPLETION, _completion, _nothing_more),
    Kind("json schema", CHAT, _json_schema, _check_json_schema),
    Kind("regex", CHAT, _regex, _check_regex),
    Kind("penalties", CHAT, _penalties, _nothing_more),
    Kind("min_tokens", CHAT, _min_tokens, _check_min_tokens),
    Kind("stop strings", CHAT, _stop, _check_stop),
    Kind("n = 3", CHAT, _several, _check_several, streams=False),
    Kind("logprobs", CHAT, _logprobs, _check_logprobs, streams=False),
)
