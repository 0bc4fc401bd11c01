"""Server-sent events, as SGLang streams its answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

Event = dict[str, Any]


class EventReader:
    """The JSON objects of a stream out of its bytes, cut anywhere, up to its ``[DONE]``.

    Lines end at a newline only. Readers of text lines (``httpx.Response.iter_lines``) also end one at U+2028 or U+0085,
    which a model may write into an answer.
    """

    def __init__(self) -> None:
        self.done = False
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises:
            ValueError: an event that is no JSON.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = []
        for line in lines:
            if self.done or not line.startswith(b"data:"):
                continue
            content = line.removeprefix(b"data:").strip()
            if content == b"[DONE]":
                self.done = True
            else:
                found.append(json.loads(content))
        return found


def events(data: Iterable[bytes]) -> Iterator[Event]:
    """Events as they come; reading ends at ``[DONE]``."""
    reader = EventReader()
    for piece in data:
        yield from reader.feed(piece)
        if reader.done:
            return


async def events_async(data: AsyncIterable[bytes]) -> AsyncIterator[Event]:
    """As :func:`events`."""
    reader = EventReader()
    async for piece in data:
        for event in reader.feed(piece):
            yield event
        if reader.done:
            return
