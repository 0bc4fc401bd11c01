"""Greedy tokens equal plain decoding's: a sample of what ``domino-sglang bench exactness`` measures in full."""

from __future__ import annotations

import pytest

from domino_sglang.bench.exactness.compare import compare
from tests.prompts import everything

MAX_TOKENS = 16


@pytest.fixture(scope="module")
def sample(ar) -> dict[str, list[int]]:
    # The prompts whose continuations tests/serving/data/continuations.json holds.
    kinds = everything(num_code=2, num_maths=2, num_chat=2, num_languages=2, num_long=1, characters=2800)
    return {f"{kind} {i}": ar.chat_ids(text) for kind, texts in kinds.items() for i, text in enumerate(texts)}


@pytest.fixture(scope="module")
def plain(ar, sample) -> list[list[int]]:
    return ar.each([(prompt, {"max_new_tokens": MAX_TOKENS}) for prompt in sample.values()], concurrency=8)


@pytest.mark.parametrize(("concurrency", "caches"), [(1, ["cold"]), (8, ["cold", "warm"])])
def test_greedy_tokens_equal_plain_decoding(each_domino, ar, sample, plain, concurrency, caches):
    each_domino.flush_cache()
    for cache in caches:
        ours = each_domino.each([(p, {"max_new_tokens": MAX_TOKENS}) for p in sample.values()], concurrency)
        differences = compare(sample, plain, ours, plain_client=ar, domino_client=each_domino)
        assert not differences, f"{cache} cache: " + "; ".join(map(str, differences))


def test_blocks_were_accepted_in_part(each_domino, sample):
    # Otherwise the tests of this folder would only ever see single-token commits.
    replies = each_domino.generate(sampling={"max_new_tokens": MAX_TOKENS}, input_ids=list(sample.values())[:3])
    lengths = [reply["meta_info"]["completion_tokens"] / reply["meta_info"]["spec_verify_ct"] for reply in replies]
    assert sum(lengths) / len(lengths) > 1.2, lengths
