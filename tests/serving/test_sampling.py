"""Sampled text through the server follows plain decoding's distribution, and seeds hold."""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from collections.abc import Callable

import pytest
from scipy.stats import chi2_contingency

from tests.prompts import chat, code, languages
from tests.support.client import Client

DISTRIBUTIONS = {
    "temperature 1": {"temperature": 1.0},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "top-k 20": {"temperature": 0.8, "top_k": 20},
    "min-p 0.1": {"temperature": 1.0, "min_p": 0.1},
    # Letters and commas in turn. Without the penalty, or without the bias, 192 samples show another distribution.
    "grammar, penalty and bias": {
        "temperature": 1.0,
        "regex": "[AB](,[AB]){15}",
        "frequency_penalty": -2.0,
        "logit_bias": {"50": 1.8},  # B
    },
}
SAMPLES, LENGTH = 96, 4
# With a dozen tests, a true distribution fails one of them once in ten thousand runs.
SIGNIFICANCE = 1e-5


def samples(client: Client, prompt: list[int], sampling: dict, number: int, length: int) -> list[dict]:
    body = {"max_new_tokens": length, "ignore_eos": True, "n": number} | sampling
    return client.generate(prompt, body, return_logprob=True)


def same_distribution(ours: Counter, plain: Counter) -> float:
    """p-value of the two-sample chi-square test; rare outcomes count as one."""
    total = ours + plain
    common = [outcome for outcome, count in total.items() if count >= 10]
    rows = [
        [counts[o] for o in common] + [sum(counts.values()) - sum(counts[o] for o in common)]
        for counts in (ours, plain)
    ]
    columns = [pair for pair in zip(*rows, strict=True) if sum(pair)]
    return 1.0 if len(columns) < 2 else chi2_contingency(list(zip(*columns, strict=True))).pvalue


@pytest.fixture(scope="module")
def plain(ar) -> Callable[[str, str, int, int], list[dict]]:
    """Plain decoding's samples of a message under a distribution, drawn once for both servers."""

    @functools.cache
    def drawn(message: str, name: str, number: int, length: int) -> list[dict]:
        return samples(ar, ar.chat_ids(message), DISTRIBUTIONS[name], number, length)

    return drawn


# Each filter on one server: both servers apply the same ones (test_target_distribution.py).
@pytest.mark.parametrize(
    ("server", "name", "number"),
    [
        ("domino", "temperature 1", SAMPLES),
        ("sync", "temperature 1", SAMPLES),
        ("domino", "top-p 0.9", SAMPLES),
        ("sync", "top-k 20", SAMPLES),
        ("domino", "min-p 0.1", SAMPLES),
        ("domino", "grammar, penalty and bias", 2 * SAMPLES),
        ("sync", "grammar, penalty and bias", 2 * SAMPLES),
    ],
)
def test_frequencies_of_tokens_and_bigrams(servers, plain, server, name, number):
    message, client = chat(1)[0], servers[server].client
    ours = samples(client, client.chat_ids(message), DISTRIBUTIONS[name], number, LENGTH)
    texts = [[tuple(reply["output_ids"]) for reply in arm] for arm in (ours, plain(message, name, number, LENGTH))]
    assert [len(arm) for arm in texts] == [number, number]
    for width in (1, 2):
        for start in range(LENGTH - width + 1):
            counts = [Counter(text[start : start + width] for text in arm) for arm in texts]
            assert same_distribution(*counts) > SIGNIFICANCE, (start, width, counts)


def test_mean_log_likelihood_equals_plain_decoding(each_domino, plain):
    number, length = 16, 10
    difference, variance = 0.0, 0.0
    for message in [*chat(2), *code(1), *languages(1)]:
        ours = samples(each_domino, each_domino.chat_ids(message), DISTRIBUTIONS["temperature 1"], number, length)
        means = []
        for replies in (ours, plain(message, "temperature 1", number, length)):
            values = [sum(e[0] for e in reply["meta_info"]["output_token_logprobs"]) / length for reply in replies]
            means.append(statistics.mean(values))
            variance += statistics.variance(values) / number
        difference += means[0] - means[1]
    assert abs(difference) < 4.5 * math.sqrt(variance), (difference, math.sqrt(variance))


def left_by_top_p(probs: list[float], top_p: float) -> int:
    """How many of the tokens, likeliest first, a top-p leaves."""
    return next(i for i in range(1, len(probs) + 1) if i == len(probs) or sum(probs[:i]) > top_p + 1e-4)


def left_by_min_p(probs: list[float], min_p: float) -> int:
    return sum(p >= probs[0] * min_p - 1e-5 for p in probs)


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        ({"temperature": 1.5, "top_k": 2}, lambda probs: 2),
        ({"temperature": 1.0, "top_p": 0.4}, lambda probs: left_by_top_p(probs, 0.4)),
        ({"temperature": 1.0, "min_p": 0.3}, lambda probs: left_by_min_p(probs, 0.3)),
    ],
    ids=["top-k", "top-p", "min-p"],
)
def test_removed_tokens_never_appear(each_domino, ar, sampling, left):
    # Plain decoding's own probabilities say which tokens a filter leaves at each place.
    prompt = ar.chat_ids(chat(1)[0])
    for reply in samples(each_domino, prompt, sampling, number=16, length=10):
        said = reply["output_ids"]
        scored = ar.generate(
            prompt + said,
            {"max_new_tokens": 1},
            return_logprob=True,
            top_logprobs_num=20,
            logprob_start_len=len(prompt) - 1,
        )
        top = scored["meta_info"]["input_top_logprobs"][-len(said) :]
        for token, best in zip(said, top, strict=True):
            assert token in [entry[1] for entry in best[: left([math.exp(entry[0]) for entry in best])]]


def test_the_same_seed_gives_the_same_text_in_any_batch(each_domino, ar):
    # Some of the others are greedy, a top-k of 1 to SGLang: filters run in this batch, and not alone.
    prompt = ar.chat_ids(chat(1)[0])
    seeded = (prompt, {"temperature": 1.0, "max_new_tokens": 24, "sampling_seed": 1234})
    alone = each_domino.ids(*seeded)
    others = [
        (ar.chat_ids(text), {"temperature": 0.5 * (i % 3), "max_new_tokens": 8 + 5 * i})
        for i, text in enumerate(chat(7))
    ]
    busy = each_domino.each([others[0], seeded, *others[1:4], seeded, *others[4:]], concurrency=9)
    assert busy[1] == busy[5] == alone
    each_domino.flush_cache()
    assert each_domino.ids(*seeded) == alone


def test_other_seeds_give_other_texts(each_domino, ar):
    prompt = ar.chat_ids(chat(1)[0])
    requests = [(prompt, {"temperature": 1.0, "max_new_tokens": 16, "sampling_seed": seed}) for seed in range(8)]
    texts = [tuple(ids) for ids in each_domino.each(requests, concurrency=8)]
    assert len(set(texts)) >= 7
    assert len({text[0] for text in texts}) + len({text[1] for text in texts}) > 3


def test_choices_of_a_seeded_request_differ_and_come_again(each_domino, ar):
    prompt = ar.chat_ids(chat(1)[0])
    seeded = {"temperature": 1.0, "max_new_tokens": 16, "sampling_seed": 99}
    first, again = (
        [reply["output_ids"] for reply in each_domino.generate(prompt, seeded | {"n": 4})] for _ in range(2)
    )
    assert len({tuple(ids) for ids in first}) == 4
    assert again == first
    # One choice is the first of several.
    assert each_domino.ids(prompt, seeded) == first[0]


def test_without_a_seed_texts_differ(each_domino, ar):
    replies = samples(each_domino, ar.chat_ids(chat(1)[0]), {"temperature": 1.0}, number=6, length=16)
    assert len({tuple(reply["output_ids"]) for reply in replies}) == 6


def test_greedy_and_sampled_requests_share_a_batch(each_domino, ar):
    prompt = ar.chat_ids(chat(1)[0])
    greedy = (prompt, {"max_new_tokens": 24})
    hot = (prompt, {"max_new_tokens": 30, "temperature": 1.0})
    ours = each_domino.each([greedy, hot, hot, greedy, hot], concurrency=5)
    assert ours[0] == ours[3] == ar.ids(*greedy)
