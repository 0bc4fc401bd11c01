"""Requests that no server can serve: each is answered with 400 and a sentence, and the next request is served."""

from __future__ import annotations

import pytest
import torch

VOCAB = 49152
PROMPT = [504, 3575]


def generate(sampling: dict | None = None, **body) -> tuple[str, dict]:
    body = {"input_ids": PROMPT} | body
    if "text" in body:
        del body["input_ids"]
    return "/generate", body | {"sampling_params": {"temperature": 0, "max_new_tokens": 4} | (sampling or {})}


def completion(**body) -> tuple[str, dict]:
    return "/v1/completions", {"model": "SmolLM2-135M-Instruct", "prompt": PROMPT, "max_tokens": 4} | body


def chat(**body) -> tuple[str, dict]:
    messages = [{"role": "user", "content": "Hi"}]
    return "/v1/chat/completions", {"model": "SmolLM2-135M-Instruct", "messages": messages, "max_tokens": 4} | body


# What is asked, and what the answer names.
BAD = {
    "token behind the vocabulary": (generate(input_ids=[504, VOCAB]), f"{VOCAB}"),
    "negative token": (generate(input_ids=[504, -1]), "-1"),
    "one of a batch": (generate(input_ids=[PROMPT, [VOCAB + 7]]), f"{VOCAB + 7}"),
    "several choices": (generate({"n": 2}, input_ids=[VOCAB]), f"{VOCAB}"),
    "completion of ids": (completion(prompt=[504, VOCAB]), f"{VOCAB}"),
    "empty text": (generate(text=""), "no tokens"),
    "empty text in a batch": (generate(text=["Hi", ""]), "no tokens"),
    "empty ids in a batch": (generate(input_ids=[PROMPT, []]), "no tokens"),
    "top_k of 32 bits": (generate({"top_k": 2**31, "temperature": 1}), "top_k"),
    "fractional top_k": (generate({"top_k": 1.5, "temperature": 1}), "1.5"),
    "top_k in words": (generate({"top_k": "many"}), "many"),
    "min_new_tokens of 32 bits": (generate({"min_new_tokens": 2**31, "max_new_tokens": None}), "min_new_tokens"),
    "fractional max_new_tokens": (generate({"max_new_tokens": 1.5}), "1.5"),
    "bias in words": (generate({"logit_bias": {"5": "much"}}), "much"),
    "bias of 64 bits": (generate({"logit_bias": {"5": 1e39}}), "logit_bias"),
    "too many top logprobs": (generate(return_logprob=True, top_logprobs_num=VOCAB + 1), "top_logprobs_num"),
    "negative top logprobs": (generate(return_logprob=True, top_logprobs_num=-1), "top_logprobs_num"),
    "too many, by chat": (chat(logprobs=True, top_logprobs=VOCAB + 1), "top_logprobs_num"),
    "logprobs of no token": (generate(return_logprob=True, token_ids_logprob=[VOCAB]), f"{VOCAB}"),
    "logprobs before the prompt": (generate(return_logprob=True, logprob_start_len=-5), "logprob_start_len"),
    "a session in words": (generate(session_params={"id": "s", "offset": "far"}), "int"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_and_served_on(each_domino, name):
    (path, body), word = BAD[name]
    reply = each_domino.post(path, body)
    assert reply.status_code == 400, reply.text
    assert word in reply.text
    assert "Traceback" not in reply.text
    assert len(each_domino.ids(PROMPT, {"max_new_tokens": 3})) == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has memory to release")
def test_memory_of_no_gpu(each_domino):
    reply = each_domino.post("/release_memory_occupation", {})
    assert reply.status_code == 400 and "GPU" in reply.text
    assert len(each_domino.ids(PROMPT, {"max_new_tokens": 3})) == 3


def test_stop_tokens_that_no_vocabulary_has_are_served(each_domino, ar):
    prompt = "Once upon a time, in a small village by the sea, there lived"
    sampling = {"max_new_tokens": 16, "min_new_tokens": 5, "stop_token_ids": [VOCAB]}
    assert each_domino.ids(prompt, sampling) == ar.ids(prompt, sampling)
    # These end plain decoding.
    assert each_domino.ids(prompt, sampling | {"stop_token_ids": [VOCAB + 1, -1, 2**40]}) == ar.ids(prompt, sampling)


def test_resuming_what_was_not_released_does_nothing(each_domino):
    assert each_domino.post("/resume_memory_occupation", {}).status_code == 200
    assert len(each_domino.ids(PROMPT, {"max_new_tokens": 3})) == 3
