"""Batches, caches and memory: what the scheduler does to a request must not show in its tokens."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.prompts import chat, code, languages, long_context
from tests.support.client import Client

PATIENCE_S = 120
CHUNK = 256
SHORT = 12


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.5)


def wait_until_idle(client: Client) -> None:
    """SGLang flushes its cache only when nothing runs and nothing waits."""
    wait_for(lambda: client.post("/flush_cache").is_success, "an idle server")


def test_batches_of_mixed_lengths(each_domino, ar):
    prompts = [*chat(4), *code(3), *languages(3), *long_context(1, characters=1600)]
    requests_ = [
        (ar.chat_ids(p), {"max_new_tokens": 1 + 5 * i % 32, "ignore_eos": True}) for i, p in enumerate(prompts)
    ]
    assert each_domino.each(requests_, concurrency=len(requests_)) == ar.each(requests_, concurrency=1)


def test_prompt_longer_than_the_prefill_chunk_cold_and_cached(each_domino, ar):
    prompt = ar.chat_ids(long_context(1, characters=2800)[0])
    assert len(prompt) > 2 * CHUNK
    each_domino.flush_cache()
    cold, warm = each_domino.generate(prompt), each_domino.generate(prompt)
    assert cold["meta_info"]["cached_tokens"] == 0
    assert warm["meta_info"]["cached_tokens"] > 2 * CHUNK
    assert cold["output_ids"] == warm["output_ids"] == ar.ids(prompt)


def test_a_second_turn_finds_the_first_in_the_cache(each_domino, ar):
    prompt = ar.chat_ids(chat(1)[0])
    first = each_domino.ids(prompt, {"max_new_tokens": 30})
    turn = [*prompt, *first, *ar.chat_ids("And why?")]
    second = each_domino.generate(turn)
    # The drafted and rejected tokens of the first turn must not have left anything behind.
    assert second["meta_info"]["cached_tokens"] >= len(prompt) + len(first) - 1
    assert second["output_ids"] == ar.ids(turn)


def test_retraction_under_memory_pressure(domino, ar):
    # Two waves of eight: what runs counts little against the pool of 1024 tokens, so the second wave is admitted beside
    # the first, and together they outgrow it. Some are retracted, and begin again later.
    # Long by min_new_tokens: SGLang reserves the whole answer of a request that ignores the end of text.
    prompts = [ar.chat_ids(prompt)[-SHORT:] for prompt in [*chat(12), *languages(4)]]
    penalties = [{}, {"frequency_penalty": 0.5}, {}, {"repetition_penalty": 1.1}]
    requests_ = [
        (prompt, {"max_new_tokens": 80, "min_new_tokens": 80} | penalties[i % 4]) for i, prompt in enumerate(prompts)
    ]
    before = domino.metric("sglang:num_retracted_requests_total")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(domino.each, requests_[:8], 8)
        wait_for(lambda: domino.metric("sglang:num_running_reqs") == 8, "a running first wave")
        second = domino.each(requests_[8:], concurrency=8)
    ours = first.result() + second
    assert domino.metric("sglang:num_retracted_requests_total") > before
    assert ours == ar.each(requests_, concurrency=8)


def test_disconnected_clients_give_their_slots_back(domino):
    def walk_away(prompt: str) -> None:
        body = {
            "text": prompt,
            "sampling_params": {"temperature": 0, "max_new_tokens": 900, "ignore_eos": True},
            "stream": True,
        }
        with domino.stream("/generate", body, PATIENCE_S) as events:
            next(events), next(events)

    for prompt in chat(3):
        walk_away(prompt)
    wait_until_idle(domino)
    # SGLang counts the slots of an idle server and dies if one is missing; and this needs nearly all of them.
    ids = list(range(1000, 1900))
    assert len(domino.ids(ids, {"max_new_tokens": 16, "ignore_eos": True})) == 16
    wait_until_idle(domino)
    assert domino.get("/health_generate").status_code == 200


def test_a_request_that_times_out_at_the_client_is_dropped(each_domino):
    with contextlib.suppress(httpx.ReadTimeout):
        each_domino.post(
            "/generate",
            {"text": "Tell me everything.", "sampling_params": {"max_new_tokens": 900, "ignore_eos": True}},
            timeout_s=2,
        )
    wait_until_idle(each_domino)


@pytest.mark.parametrize(("server", "length", "limit"), [("sync", 8200, "8192"), ("domino", 1200, "")])
def test_a_prompt_that_cannot_fit_is_refused(servers, server, length, limit):
    # The first is longer than the model's context, the second than the KV pool.
    reply = servers[server].client.post(
        "/generate", {"input_ids": [1000] * length, "sampling_params": {"max_new_tokens": 4}}
    )
    assert reply.status_code == 400
    message = reply.json()["error"]["message"]
    assert str(length) in message and limit in message


def test_more_tokens_than_the_context_holds_are_refused_in_words(sync):
    reply = sync.post("/v1/completions", {"model": sync.model, "prompt": "Hello", "max_tokens": 9000, "temperature": 0})
    assert reply.status_code == 400
    assert "context" in reply.text
