"""One streaming chat request, timed at the client."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from domino_sglang.measure.sse import events


class StreamError(RuntimeError):
    """The server reported an error inside a stream, or the stream ended without its usage."""


@dataclass
class StreamResult:
    """What came over the wire; times in seconds on ``time.perf_counter``.

    Attributes:
        start: when the request was sent.
        first: when the first text arrived; None before that.
        end: when the stream ended.
    """

    start: float
    first: float | None = None
    end: float = 0.0
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def ttft(self) -> float | None:
        return None if self.first is None else self.first - self.start

    @property
    def seconds(self) -> float:
        return self.end - self.start


def read_stream(data: Iterable[bytes], start: float) -> StreamResult:
    """Read the bytes of a chat stream that was asked for with ``stream_options.include_usage``.

    Raises:
        StreamError: an error event, or no usage at the end.
    """
    result = StreamResult(start)
    usage = None
    for event in events(data):
        if event.get("error") or event.get("object") == "error":
            raise StreamError(str(event.get("error") or event.get("message")))
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            piece = (delta.get("content") or "") + (delta.get("reasoning_content") or "")
            if piece and result.first is None:
                result.first = time.perf_counter()
            result.text += piece
        usage = event.get("usage") or usage
    result.end = time.perf_counter()
    if usage is None:
        raise StreamError("the stream ended without its usage")
    result.prompt_tokens, result.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    return result
