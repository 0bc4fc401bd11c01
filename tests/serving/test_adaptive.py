"""``--speculative-adaptive``: the length of the block follows the batch, and the text does not."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from domino_sglang.demo import packaged_drafter
from domino_sglang.measure.server_process import ServerProcess
from tests.prompts import chat, code
from tests.serving.servers import MODEL
from tests.support.client import Client

CANDIDATES = {1: [5], 3: [2], 6: [0]}
LENGTHS = (48, 40, 12, 32, 24, 8, 44, 16)


@pytest.fixture(scope="module")
def adaptive(target, tmp_path_factory):
    """Batches of 1 and 2 draft 5 tokens, to 5 requests 2, and from 6 on none."""
    folder = tmp_path_factory.mktemp("adaptive")
    table = folder / "table.json"
    table.write_text(json.dumps({str(size): {"candidate_steps": steps} for size, steps in CANDIDATES.items()}))
    flags = [
        *("--model-path", str(target), "--served-model-name", MODEL, "--dtype", "float32", "--enable-metrics"),
        *("--max-total-tokens", "8192", "--max-running-requests", "16"),
        *("--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(packaged_drafter())),
        *("--speculative-num-draft-tokens", "6"),
        *("--speculative-adaptive", "--speculative-adaptive-config", str(table)),
    ]
    with ServerProcess(flags, folder / "server.log", env={"HF_HUB_OFFLINE": "1"}) as server:
        server.wait_until_ready()
        yield Client(server.url, MODEL)


def steps_by_length(client: Client) -> dict[int, float]:
    return {n: client.metric("domino:decode_steps_total", proposals=str(n)) for n in (5, 2, 0)}


def test_greedy_texts_are_plain_decodings_at_every_length(adaptive, ar):
    penalties = [{}, {"frequency_penalty": 0.5}, {}, {"repetition_penalty": 1.1, "min_new_tokens": 6}]
    prompts = [ar.chat_ids(prompt) for prompt in [*chat(5), *code(3)]]
    # Answers of all lengths, so that a batch shrinks while it runs and a text is made of blocks of every length.
    asked = [
        (prompt, {"max_new_tokens": length, "ignore_eos": True} | penalties[i % 4])
        for i, (prompt, length) in enumerate(zip(prompts, LENGTHS, strict=True))
    ]
    before = steps_by_length(adaptive)
    expected = ar.each(asked, concurrency=8)
    for users in (8, 4, 1):
        assert adaptive.each(asked, concurrency=users) == expected
    after = steps_by_length(adaptive)
    assert all(after[n] > before[n] for n in after), (before, after)


def test_a_lone_request_has_the_long_block(adaptive, ar):
    before = steps_by_length(adaptive)
    reply = adaptive.generate(ar.chat_ids(code(1)[0]), {"max_new_tokens": 32, "ignore_eos": True})
    after = steps_by_length(adaptive)
    assert after[5] - before[5] >= reply["meta_info"]["spec_verify_ct"] and after[0] == before[0]
    assert reply["meta_info"]["spec_accept_length"] > 1


def test_a_drafter_that_has_rested_knows_what_was_written_meanwhile(adaptive, ar):
    """After a rest it needs as many steps as for the same tokens in a prompt, and one between the two."""
    resting, drafting = {"max_new_tokens": 64, "ignore_eos": True}, {"max_new_tokens": 48, "ignore_eos": True}
    whole = {"max_new_tokens": 112, "ignore_eos": True}
    # Texts that lean on what they have said.
    asked = ["List the numbers from 1 to 60.", "Write a poem in which every line begins with: The sea", code(1)[0]]
    crowd = [(ar.chat_ids(prompt), resting) for prompt in chat(7)]
    taken, expected = 0.0, 0.0
    for prompt in map(ar.chat_ids, asked):
        text = ar.ids(prompt, whole)
        before = steps_by_length(adaptive)
        adaptive.ids([*prompt, *text[:64]], drafting)
        from_prompt = steps_by_length(adaptive)
        assert adaptive.each([*crowd, (prompt, whole)], concurrency=8)[-1] == text
        after = steps_by_length(adaptive)
        assert after[0] - from_prompt[0] >= 56
        expected += from_prompt[5] - before[5]
        taken += after[5] - from_prompt[5]
    assert abs(taken - expected) <= 2 * len(asked)


def test_logprobs_without_proposals_are_the_targets(adaptive, ar):
    asked = [(ar.chat_ids(prompt), {"max_new_tokens": 12, "ignore_eos": True}) for prompt in chat(7)]
    prompt = ar.chat_ids("Name three rivers.")
    sampling = {"max_new_tokens": 12, "ignore_eos": True}
    before = steps_by_length(adaptive)
    with ThreadPoolExecutor(1) as pool:
        crowd = pool.submit(adaptive.each, asked, 7)
        ours = adaptive.generate(prompt, sampling, return_logprob=True)["meta_info"]["output_token_logprobs"]
        crowd.result()
    assert steps_by_length(adaptive)[0] > before[0]
    theirs = ar.generate(prompt, sampling, return_logprob=True)["meta_info"]["output_token_logprobs"]
    assert [token for _, token, *_ in ours] == [token for _, token, *_ in theirs]
    assert [value for value, *_ in ours] == pytest.approx([value for value, *_ in theirs], abs=1e-3)


def test_a_seeded_text_does_not_depend_on_how_busy_the_server_is(adaptive, ar):
    seeded = (ar.chat_ids("Tell me about the sea."), {"max_new_tokens": 24, "temperature": 1.0, "sampling_seed": 11})
    alone = adaptive.ids(*seeded)
    neighbours = [(ar.chat_ids(prompt), {"max_new_tokens": 24, "temperature": 0.8}) for prompt in chat(7)]
    crowded = adaptive.each([seeded, *neighbours], concurrency=8)
    assert crowded[0] == alone
    assert len({tuple(ids) for ids in crowded}) == 8
