"""Log-probabilities returned to clients are the target's own."""

from __future__ import annotations

import pytest
from openai import OpenAI

from tests.prompts import chat

TOLERANCE = 1e-4


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"frequency_penalty": 0.8, "logit_bias": {"28": 4.0}},
        {"repetition_penalty": 1.1},
        {"min_new_tokens": 12, "presence_penalty": 0.7},
        {"regex": "(yes|no)(, (yes|no))*[.]", "frequency_penalty": 0.5},
    ],
    ids=["plain", "penalty and bias", "repetition", "min tokens", "grammar"],
)
def test_output_logprobs_equal_plain_decoding(each_domino, ar, sampling):
    prompt = ar.chat_ids(chat(1)[0])
    body = {"return_logprob": True, "top_logprobs_num": 4, "token_ids_logprob": [5, 77, 1000], "logprob_start_len": 0}
    ours, plain = (client.generate(prompt, sampling, **body) for client in (each_domino, ar))
    assert ours["output_ids"] == plain["output_ids"]
    for name in ("output_token_logprobs", "input_token_logprobs"):
        _same(ours["meta_info"][name], plain["meta_info"][name])
    for name in ("output_top_logprobs", "output_token_ids_logprobs"):
        for mine, theirs in zip(ours["meta_info"][name], plain["meta_info"][name], strict=True):
            _same(mine, theirs)


def _same(ours, plain):
    assert [entry[1] for entry in ours] == [entry[1] for entry in plain]
    pairs = [(a[0], b[0]) for a, b in zip(ours, plain, strict=True)]
    assert all((a is None) == (b is None) for a, b in pairs)
    assert [a for a, _ in pairs if a is not None] == pytest.approx(
        [b for _, b in pairs if b is not None], abs=TOLERANCE
    )


def test_openai_logprobs(domino, ar):
    def ask(client):
        return OpenAI(base_url=client.url + "/v1", api_key="none").chat.completions.create(
            model=client.model,
            messages=[{"role": "user", "content": chat(1)[0]}],
            temperature=0,
            max_tokens=16,
            logprobs=True,
            top_logprobs=3,
        )

    ours, plain = ask(domino).choices[0].logprobs.content, ask(ar).choices[0].logprobs.content
    assert [entry.token for entry in ours] == [entry.token for entry in plain]
    assert [e.logprob for e in ours] == pytest.approx([e.logprob for e in plain], abs=TOLERANCE)
    for mine, theirs in zip(ours, plain, strict=True):
        assert len(mine.top_logprobs) == 3
        assert [top.token for top in mine.top_logprobs] == [top.token for top in theirs.top_logprobs]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_of_sampled_tokens_are_the_targets(each_domino, ar, temperature):
    # As plain decoding reports them: after the temperature, before top-p.
    prompt = ar.chat_ids(chat(1)[0])
    sampling = {"temperature": temperature, "max_new_tokens": 10, "top_p": 0.95, "ignore_eos": True}
    reply = each_domino.generate(prompt, sampling, return_logprob=True)
    for place, (found, token, _text) in enumerate(reply["meta_info"]["output_token_logprobs"]):
        assert token == reply["output_ids"][place]
        next_token = ar.generate(
            prompt + reply["output_ids"][:place],
            {"temperature": temperature, "max_new_tokens": 1},
            return_logprob=True,
            token_ids_logprob=[token],
        )
        expected = next_token["meta_info"]["output_token_ids_logprobs"][0][0][0]
        assert found == pytest.approx(expected, abs=TOLERANCE), place
