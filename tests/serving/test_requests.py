"""Every kind of request, asked over HTTP: what comes back is what plain decoding gives, in the shape clients expect."""

from __future__ import annotations

import itertools

import pytest
from openai import OpenAI

from tests.prompts import chat

QUESTION = chat(1)[0]
STORY = "Once upon a time, in a small village by the sea, there lived"


def openai_client(client) -> OpenAI:
    return OpenAI(base_url=client.url + "/v1", api_key="none")


def ask(client, **changes):
    body = {
        "model": client.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 16,
    }
    return openai_client(client).chat.completions.create(**(body | changes))


def test_chat(domino, ar):
    ours, plain = ask(domino), ask(ar)
    assert ours.choices[0].message.content == plain.choices[0].message.content
    assert ours.choices[0].finish_reason == "length"
    assert ours.usage.completion_tokens == 16
    assert ours.usage.prompt_tokens == plain.usage.prompt_tokens


def test_completion(domino, ar):
    texts = [
        openai_client(client).completions.create(model=client.model, prompt=STORY, temperature=0, max_tokens=16)
        for client in (domino, ar)
    ]
    assert texts[0].choices[0].text == texts[1].choices[0].text
    assert texts[0].usage.completion_tokens == 16


def test_generate_takes_text_and_token_ids(each_domino, ar):
    prompt = ar.chat_ids(QUESTION)
    assert each_domino.ids(prompt) == ar.ids(prompt)
    ours, plain = each_domino.generate(STORY), ar.generate(STORY)
    assert ours["text"] == plain["text"]
    assert ours["output_ids"] == plain["output_ids"]


def test_chat_stream_equals_the_whole(each_domino):
    stream = ask(each_domino, stream=True, stream_options={"include_usage": True})
    pieces, usage = [], None
    for chunk in stream:
        usage = chunk.usage or usage
        if chunk.choices and chunk.choices[0].delta.content:
            pieces.append(chunk.choices[0].delta.content)
    whole = ask(each_domino)
    assert "".join(pieces) == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_generate_stream_grows_to_the_whole(domino):
    body = {"text": STORY, "sampling_params": {"temperature": 0, "max_new_tokens": 16}, "stream": True}
    with domino.stream("/generate", body) as stream:
        events = list(stream)
    texts = [event["text"] for event in events]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert len(texts) > 1
    assert events[-1]["meta_info"]["completion_tokens"] == 16
    assert texts[-1] == domino.generate(STORY)["text"]


def test_n_gives_that_many_choices(domino):
    sampled = ask(domino, n=3, temperature=1.0, max_tokens=12)
    assert [choice.index for choice in sampled.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in sampled.choices}) > 1
    greedy = ask(domino, n=2, max_tokens=12)
    alone = ask(domino, max_tokens=12)
    assert {choice.message.content for choice in greedy.choices} == {alone.choices[0].message.content}


def test_stop_string_ends_the_text_before_itself(each_domino, ar):
    whole = ar.generate(STORY, {"max_new_tokens": 40})["text"]
    stop = whole[len(whole) // 2 :][:6]
    reply = each_domino.generate(STORY, {"max_new_tokens": 40, "stop": [stop]})
    assert reply["text"] == whole[: whole.index(stop)]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}


@pytest.mark.parametrize("place", range(1, 10))
def test_stop_token_anywhere_in_the_block(each_domino, ar, place):
    # Nine places in a row: a block of 8 starts wherever acceptance puts it, so some of them fall inside one.
    prompt = ar.chat_ids(QUESTION)
    whole = ar.ids(prompt)
    stop = whole[place]
    reply = each_domino.generate(prompt, {"stop_token_ids": [stop]})
    assert reply["output_ids"] == whole[: whole.index(stop) + 1]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}


def test_stop_regex(each_domino, ar):
    sampling = {"max_new_tokens": 40, "stop_regex": ["[,.]"]}
    ours, plain = each_domino.generate(STORY, sampling), ar.generate(STORY, sampling)
    assert ours["text"] == plain["text"]
    assert ours["meta_info"]["finish_reason"] == plain["meta_info"]["finish_reason"]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9])
def test_max_tokens_is_met_exactly(each_domino, ar, length):
    prompt = ar.chat_ids(QUESTION)
    reply = each_domino.generate(prompt, {"max_new_tokens": length})
    assert reply["output_ids"] == ar.ids(prompt)[:length]
    assert reply["meta_info"]["finish_reason"] == {"type": "length", "length": length}


def test_a_long_answer(domino, ar):
    prompt = ar.chat_ids(chat(2)[1])
    sampling = {"max_new_tokens": 100}
    assert domino.ids(prompt, sampling) == ar.ids(prompt, sampling)


def test_ignore_eos_writes_on(each_domino, ar):
    prompt = ar.chat_ids("Reply with the single word: yes")
    sampling = {"max_new_tokens": 40, "ignore_eos": True}
    ours = each_domino.ids(prompt, sampling)
    assert len(ours) == 40
    assert ours == ar.ids(prompt, sampling)


def test_min_tokens_holds_back_the_stop(each_domino, ar):
    prompt = ar.chat_ids(QUESTION)
    whole = ar.ids(prompt)
    # Make a token that comes early a stop token, and forbid it until later.
    sampling = {"max_new_tokens": 24, "stop_token_ids": [whole[3]], "min_new_tokens": 14}
    ours, plain = each_domino.generate(prompt, sampling), ar.generate(prompt, sampling)
    assert ours["output_ids"] == plain["output_ids"]
    assert len(ours["output_ids"]) >= 14
    assert whole[3] not in ours["output_ids"][:13]


def test_logit_bias(each_domino, ar):
    prompt = ar.chat_ids(QUESTION)
    whole = ar.ids(prompt)
    # Forbid what plain greedy decoding would say, and favour a token it would not.
    bias = {str(whole[0]): -100.0, str(whole[2]): -100.0, "28": 3.0, "198": 2.0}
    sampling = {"logit_bias": bias}
    ours = each_domino.ids(prompt, sampling)
    assert ours == ar.ids(prompt, sampling)
    assert not {whole[0], whole[2]} & set(ours)


def test_a_batch_in_one_request(each_domino, ar):
    # Mixed lengths, mixed parameters, one HTTP call.
    prompts = [STORY, "def fibonacci(n):", "2 + 2 =", "Hello", STORY * 4]
    sampling = [{"temperature": 0, "max_new_tokens": 3 + 7 * i} for i in range(len(prompts))]
    body = {"text": prompts, "sampling_params": sampling}
    ours, plain = (client.post("/generate", body).json() for client in (each_domino, ar))
    assert [reply["output_ids"] for reply in ours] == [reply["output_ids"] for reply in plain]
