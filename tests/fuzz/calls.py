"""What is asked: one HTTP call as a client may send it, well made or not, and how to make a batch of them plainer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Json = dict[str, Any]
GENERATE, CHAT, COMPLETION = "/generate", "/v1/chat/completions", "/v1/completions"
PLAIN_FIELDS = {"model", "text", "input_ids", "messages", "prompt", "sampling_params", "max_new_tokens", "max_tokens"}
# A call ends when its answer is whole; a client may also leave early, or ask for the end.
WHOLE, LEAVES, ABORTS = "whole", "leaves", "aborts"


@dataclass(frozen=True)
class Call:
    """One request.

    Attributes:
        ending: ``whole``, ``leaves`` (the client disconnects after the first events) or ``aborts`` (somebody asks
            ``/abort_request`` while it runs); what a call that is cut short has said by then is nobody's promise.
    """

    path: str
    body: Json = field(hash=False)
    ending: str = WHOLE

    @property
    def sampling(self) -> Json:
        """Where sampling parameters stand: an object of its own in ``/generate``, the body elsewhere."""
        return self.body.get("sampling_params", {}) if self.path == GENERATE else self.body

    @property
    def is_greedy(self) -> bool:
        return self.sampling.get("temperature") == 0 or self.sampling.get("top_k") == 1

    @property
    def features(self) -> frozenset[str]:
        """Names of what is out of the ordinary about it, by which its failures are told apart."""
        odd = (self.body.keys() | self.sampling.keys()) - PLAIN_FIELDS - {"temperature"}
        # Where nothing is, the prompt must be.
        return frozenset((odd or {json.dumps(self.body)}) | {self.path, self.ending})


def smaller(calls: Sequence[Call]) -> Iterator[list[Call]]:
    """The batch without one of its calls, or with one call plainer by one thing."""
    for i in range(len(calls) if len(calls) > 1 else 0):
        yield [*calls[:i], *calls[i + 1 :]]
    for i, call in enumerate(calls):
        for plainer in _plainer(call):
            yield [*calls[:i], plainer, *calls[i + 1 :]]


def _plainer(call: Call) -> Iterator[Call]:
    if call.ending != WHOLE:
        yield replace(call, ending=WHOLE)
    for name in sorted(call.body.keys() - PLAIN_FIELDS - {"temperature"}):
        yield replace(call, body=_without(call.body, name))
    # A processor without its parameters is an error of its own.
    kept = {"temperature"} | ({"custom_params"} if "custom_logit_processor" in call.body else set())
    for name in sorted(call.body.get("sampling_params", {}).keys() - PLAIN_FIELDS - kept):
        yield replace(call, body=call.body | {"sampling_params": _without(call.sampling, name)})
    for name in ("text", "input_ids", "messages", "prompt"):
        value = call.body.get(name)
        if isinstance(value, (str, list)) and len(value) > 1:
            for half in (value[: len(value) // 2], value[len(value) // 2 :]):
                yield replace(call, body=call.body | {name: half})


def _without(fields: Json, name: str) -> Json:
    return {key: value for key, value in fields.items() if key != name}
