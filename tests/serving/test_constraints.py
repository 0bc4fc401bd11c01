"""Grammars: the text fits, and is the one plain decoding gives under the same grammar."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.client import Client

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[A-Z][a-z]{2,9}$"},
        "population": {"type": "integer", "minimum": 1, "maximum": 9999},
        "capital": {"type": "boolean"},
    },
    "required": ["city", "population", "capital"],
    "additionalProperties": False,
}
PROMPT = "Describe the capital of France as JSON:\n"
DATE = r"(19|20)\d\d-(0[1-9]|1[0-2])-[0-2]\d"
GRAMMAR = 'root ::= ("yes" | "no" | "maybe") "," [ ] [a-z]{3} "!"'


def constrained(client: Client, **constraint):
    return client.generate(PROMPT, {"max_new_tokens": 64} | constraint)


def test_json_schema(each_domino, ar):
    ours = constrained(each_domino, json_schema=json.dumps(SCHEMA))
    plain = constrained(ar, json_schema=json.dumps(SCHEMA))
    assert ours["output_ids"] == plain["output_ids"]
    answer = json.loads(ours["text"])
    assert set(answer) == set(SCHEMA["required"])
    assert re.fullmatch("[A-Z][a-z]{2,9}", answer["city"])


def test_json_schema_through_openai(domino):
    body = {
        "model": domino.model,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_tokens": 64,
        "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}},
    }
    reply = domino.post("/v1/chat/completions", body).json()
    assert set(json.loads(reply["choices"][0]["message"]["content"])) == set(SCHEMA["required"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_regex(each_domino, ar, temperature):
    ours = constrained(each_domino, regex=DATE, temperature=temperature)
    assert re.fullmatch(DATE, ours["text"])
    assert ours["meta_info"]["finish_reason"]["type"] == "stop"
    if temperature == 0:
        assert ours["output_ids"] == constrained(ar, regex=DATE)["output_ids"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ebnf(each_domino, ar, temperature):
    ours = constrained(each_domino, ebnf=GRAMMAR, temperature=temperature)
    assert re.fullmatch(r"(yes|no|maybe), [a-z]{3}!", ours["text"])
    if temperature == 0:
        assert ours["output_ids"] == constrained(ar, ebnf=GRAMMAR)["output_ids"]


def test_constrained_and_free_requests_share_a_batch(each_domino, ar):
    free = (PROMPT, {"max_new_tokens": 20})
    bound = (PROMPT, {"max_new_tokens": 40, "regex": DATE})
    requests = [free, bound, (PROMPT, {"max_new_tokens": 20, "temperature": 1.0}), bound, free]
    ours = each_domino.each(requests, concurrency=5)
    plain = ar.each([free, bound], concurrency=2)
    assert ours[0] == ours[4] == plain[0]
    assert ours[1] == ours[3] == plain[1]


def test_a_schema_that_is_none_is_refused_in_words(domino):
    reply = domino.post("/generate", {"text": PROMPT, "sampling_params": {"json_schema": "INVALID"}})
    assert reply.status_code == 400
    assert "grammar" in reply.text.lower() or "json" in reply.text.lower()
