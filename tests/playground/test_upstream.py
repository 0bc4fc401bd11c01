"""URLs, and SGLang's chunks as steps: every count exact, whatever way the server streams."""

from __future__ import annotations

import pytest

from domino_sglang.playground.upstream import Trouble, _Chunks, _message, server_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:30000", "http://127.0.0.1:30000"),
        ("http://127.0.0.1:30000/", "http://127.0.0.1:30000"),
        ("https://host.example/v1/", "https://host.example"),
        ("http://host/prefix", "http://host/prefix"),
        ("http://[::1]:30000", "http://[::1]:30000"),
    ],
)
def test_base_urls(text, url):
    assert server_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:30000",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://a:b@host",
        "http://host/?q=1",
        "file:///etc",
    ],
)
def test_what_is_no_server_url_is_refused_in_words(text):
    with pytest.raises(ValueError, match=r"expected .*http://127\.0\.0\.1:30000"):
        server_url(text)


def chunk(text, ids, tokens, steps=None, reason=None):
    meta = {"completion_tokens": tokens, "prompt_tokens": 3, "finish_reason": reason and {"type": reason}}
    if steps is not None:
        meta["spec_verify_ct"] = steps
    return {"text": text, "output_ids": ids, "meta_info": meta}


def read(*chunks, block_size=8):
    reader = _Chunks(block_size)
    return [event for one in chunks for event in reader.events(one)]


STEPS = [
    {"event": "step", "text": "A", "tokens": 1, "steps": 0},
    {"event": "step", "text": " b c", "tokens": 2, "steps": 1},
    {"event": "step", "text": " d e f g", "tokens": 4, "steps": 1},
]


def test_cumulative_chunks():
    assert read(chunk("A", [1], 1), chunk("A b c", [1, 2, 3], 3), chunk("A b c d e f g", list(range(7)), 7)) == STEPS


def test_incremental_chunks():
    assert read(chunk("A", [1], 1), chunk(" b c", [2, 3], 3), chunk(" d e f g", [4, 5, 6, 7], 7)) == STEPS


def test_more_tokens_than_a_block_took_more_than_a_step():
    events = read(chunk("", list(range(3)), 3), chunk("", list(range(7)), 7), block_size=2)
    assert [event["steps"] for event in events] == [1, 2]


def test_plain_decoding_takes_a_step_for_every_token_but_the_first():
    chunks = [chunk("A", [1], 1), chunk("A b", [1, 2], 2), chunk("A b c d", [1, 2, 3, 4], 4, None, "stop")]
    assert [event["steps"] for event in read(*chunks, block_size=1)] == [0, 1, 2, None]


def test_tokens_count_when_their_text_is_held_back():
    events = read(chunk("", [1], 1), chunk("", [1, 2, 3], 3), chunk("é", [1, 2, 3, 4], 4, 2, "stop"))
    assert [event.get("tokens") for event in events] == [1, 2, 1, None]
    assert events[-1] == {"event": "end", "reason": "stop", "prompt_tokens": 3, "completion_tokens": 4, "steps": 2}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"error": {"message": "too long", "code": 400}}, "refused"),
        ({"error": {"message": "full", "code": 503}}, "busy"),
        ({"meta_info": {"finish_reason": {"type": "abort", "message": "gone", "status_code": 500}}}, "failed"),
    ],
)
def test_trouble_inside_the_stream(told, kind):
    with pytest.raises(Trouble) as caught:
        read(told)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('{"error": {"message": "no"}}', "no"),
        ('{"object": "error", "message": "no"}', "no"),
        ('{"detail": "no"}', "no"),
        ("no", "no"),
        ('{"odd": 1}', '{"odd": 1}'),
    ],
)
def test_the_sentence_in_an_error_reply(body, sentence):
    assert _message(body) == sentence
