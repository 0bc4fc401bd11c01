import json

import pytest

from domino_sglang.bench.sweep.rows import RequestRow
from domino_sglang.measure.stream import StreamError, read_stream

USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}


def lines(*events):
    said = [b"data: " + json.dumps(event).encode() for event in events]
    return [line + b"\n\n" for line in (*said, b"data: [DONE]", b"data: never read")]


def piece(text):
    return {"choices": [{"delta": {"content": text}}]}


def test_the_first_text_counts_not_the_role():
    result = read_stream(lines(piece(""), piece("Hello"), piece(" you"), USAGE), start=0.0)
    assert result.text == "Hello you"
    assert (result.prompt_tokens, result.completion_tokens) == (3, 5)
    assert result.start < result.first <= result.end


@pytest.mark.parametrize("event", [{"error": {"message": "out of memory"}}, {"object": "error", "message": "x"}])
def test_an_error_inside_a_stream_is_an_error(event):
    with pytest.raises(StreamError):
        read_stream(lines(piece("Hel"), event), start=0.0)


def test_a_stream_without_usage_is_an_error():
    with pytest.raises(StreamError, match="usage"):
        read_stream(lines(piece("Hello")), start=0.0)


def test_tpot_is_per_token_after_the_first():
    row = RequestRow("chat", 0.0, ttft=1.0, seconds=3.0, prompt_tokens=3, completion_tokens=5)
    assert row.tpot == 0.5
    assert RequestRow("chat", 0.0, 1.0, 1.0, 3, 1).tpot is None
