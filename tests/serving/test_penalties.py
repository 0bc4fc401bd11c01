"""Penalties act token by token inside a drafted block, as plain decoding applies them."""

from __future__ import annotations

import pytest

from tests.prompts import chat

# Never an additive one with a repetition penalty: SGLang's plain decoding applies them in the order of a Python set,
# which differs from process to process. Ours is its overlap scheduler's (unit/serving/sampling/test_penalties.py).
PENALTIES = {
    "presence": {"presence_penalty": 1.1},
    "frequency": {"frequency_penalty": 0.8},
    "negative": {"presence_penalty": -0.6, "frequency_penalty": -0.4},
    "repetition": {"repetition_penalty": 1.25},
    "rewarding repetition": {"repetition_penalty": 0.9},
    "additive": {"presence_penalty": 0.5, "frequency_penalty": 0.4},
    "with min tokens": {"frequency_penalty": 0.7, "min_new_tokens": 20},
    "with bias": {"presence_penalty": 0.7, "logit_bias": {"28": 4.0}},
}


@pytest.mark.parametrize("name", PENALTIES)
def test_tokens_equal_plain_decoding(each_domino, ar, name):
    prompt = ar.chat_ids(chat(1)[0])
    sampling = PENALTIES[name] | {"max_new_tokens": 24}
    assert each_domino.ids(prompt, sampling) == ar.ids(prompt, sampling)


def test_requests_with_and_without_penalties_share_a_batch(each_domino, ar):
    prompt = ar.chat_ids(chat(1)[0])
    requests = [(prompt, {"max_new_tokens": 8 + 3 * i} | p) for i, p in enumerate([{}, *PENALTIES.values(), {}])]
    assert each_domino.each(requests, concurrency=10) == ar.each(requests, concurrency=10)
