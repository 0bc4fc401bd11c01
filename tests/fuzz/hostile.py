"""Calls that end plain SGLang: a DOMINO server refuses or serves them, and lives."""

from __future__ import annotations

from typing import Any

from tests.fuzz.calls import GENERATE, Call
from tests.fuzz.drawing import VOCAB


def _hostile(name: str, value: Any, *more: tuple[str, Any]) -> Call:
    sampling = {"temperature": 0, "max_new_tokens": 4}
    body = {"input_ids": [5, 6, 7], "sampling_params": sampling}
    for key, found in ((name, value), *more):
        if key == "text":
            body.pop("input_ids")
        (sampling if key in ("top_k", "stop_token_ids", "min_new_tokens") else body)[key] = found
    return Call(GENERATE, body)


HOSTILE = (
    _hostile("input_ids", [VOCAB]),
    _hostile("input_ids", [-1, 5]),
    _hostile("input_ids", [2**31]),
    _hostile("text", ""),
    _hostile("top_k", 2**31),
    _hostile("return_logprob", True, ("top_logprobs_num", VOCAB + 1)),
    _hostile("return_logprob", True, ("top_logprobs_num", -1)),
    _hostile("return_logprob", True, ("token_ids_logprob", [VOCAB])),
    _hostile("return_logprob", True, ("token_ids_logprob", [-VOCAB - 1])),
    _hostile("return_logprob", True, ("logprob_start_len", -5)),
    _hostile("min_new_tokens", 3, ("stop_token_ids", [VOCAB])),
    _hostile("min_new_tokens", 3, ("stop_token_ids", [-1])),
    Call("/release_memory_occupation", {}),
)
