"""One SGLang server as the playground sees it: what it is, and a chat answer step by step."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from domino_sglang.measure.sse import Event, events_async

# A server under load may take long for the first token; one that says nothing for this long is given up.
SILENCE_LIMIT_S = 300.0
TIMEOUT = httpx.Timeout(10.0, connect=5.0, read=SILENCE_LIMIT_S)
PROBE_TIMEOUT = httpx.Timeout(5.0)
# Block size of a server that does not tell: then every chunk is one step.
MANY = 1_000_000


@dataclass(frozen=True)
class Chat:
    """One question to a server.

    Attributes:
        messages: role and content, oldest first.
        temperature: 0 is greedy.
        max_tokens: longest answer, in tokens.
        thinking: passed to chat templates that know ``enable_thinking``.
    """

    messages: list[dict[str, str]]
    temperature: float = 0.0
    max_tokens: int = 256
    thinking: bool = False


class Trouble(Exception):
    """An answer that will not come: ``kind`` is "lost", "refused", "busy" or "failed"."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def server_url(text: str) -> str:
    """A server's base URL, without a trailing slash or ``/v1``.

    Raises:
        ValueError: what was found and what is needed.
    """
    parts = urlsplit(text.strip())
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
        raise ValueError(f"{text!r} is no server URL, expected one like http://127.0.0.1:30000")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError(f"{text!r} holds more than scheme, host, port and path, expected http://127.0.0.1:30000")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


async def describe(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """What the server says of itself.

    Returns:
        ``ok``, and either ``model``, ``algorithm`` (None for plain decoding) and ``block_size`` (1 for plain
        decoding), or ``error``.
    """
    try:
        reply = await client.get(url + "/server_info", timeout=PROBE_TIMEOUT)
        if reply.status_code != 200:
            hint = "; give the URL of an SGLang server, not of a router" if reply.status_code == 404 else ""
            return {"ok": False, "error": f"{url}/server_info answered with status {reply.status_code}{hint}"}
        info = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        return {"ok": False, "error": _cannot_reach(url, error)}
    algorithm = info.get("speculative_algorithm")
    return {
        "ok": True,
        "model": info.get("served_model_name") or info.get("model_path") or "unnamed model",
        "algorithm": algorithm,
        "block_size": (info.get("speculative_num_draft_tokens") or 1) if algorithm else 1,
    }


async def answer(client: httpx.AsyncClient, url: str, chat: Chat) -> AsyncIterator[Event]:
    """The answer as events: ``step`` for each streamed chunk, then one ``end`` or ``trouble``.

    A ``step`` carries the new ``text``, the number of new ``tokens``, by the server's own count, so that it stays exact
    when text is held back at an incomplete character, and ``steps``: how many decode steps the chunk holds. SGLang
    sends a chunk a step, and one for several steps only when it is too busy; the first token comes from the prefill
    and needs none. ``end`` carries the server's count of ``steps``, told only then; None from plain decoding.
    """
    try:
        about, prompt = await asyncio.gather(describe(client, url), _tokenize(client, url, chat))
        async for event in _generate(client, url, prompt, chat, about.get("block_size", MANY)):
            yield event
    except Trouble as trouble:
        yield {"event": "trouble", "kind": trouble.kind, "message": str(trouble)}
    except httpx.TimeoutException as error:
        silent = f"the server at {url} sent nothing for {SILENCE_LIMIT_S:.0f} s"
        message = _cannot_reach(url, error) if isinstance(error, httpx.ConnectTimeout) else silent
        yield {"event": "trouble", "kind": "lost", "message": message}
    except (httpx.HTTPError, ValueError) as error:
        yield {"event": "trouble", "kind": "lost", "message": _cannot_reach(url, error)}


async def _tokenize(client: httpx.AsyncClient, url: str, chat: Chat) -> list[int]:
    body = {"messages": chat.messages, "chat_template_kwargs": {"enable_thinking": chat.thinking}}
    reply = await client.post(url + "/v1/tokenize", json=body, timeout=TIMEOUT)
    if reply.status_code != 200:
        raise _trouble(reply.status_code, reply.text)
    return reply.json()["tokens"]


async def _generate(
    client: httpx.AsyncClient, url: str, prompt: list[int], chat: Chat, block_size: int
) -> AsyncIterator[Event]:
    # /generate and not /v1/chat/completions: only it counts tokens in every chunk, and verify steps in the last.
    body = {
        "input_ids": prompt,
        "sampling_params": {"temperature": chat.temperature, "max_new_tokens": chat.max_tokens},
        "stream": True,
    }
    async with client.stream("POST", url + "/generate", json=body, timeout=TIMEOUT) as reply:
        if reply.status_code != 200:
            raise _trouble(reply.status_code, (await reply.aread()).decode(errors="replace"))
        chunks = _Chunks(block_size)
        async for chunk in events_async(reply.aiter_bytes()):
            for event in chunks.events(chunk):
                yield event
        if not chunks.ended:
            raise Trouble("lost", f"the server at {url} closed the stream before the answer was complete")


class _Chunks:
    """Turns SGLang's chunks, whose counts and usually whose text are cumulative, into what each one added.

    Args:
        block_size: the most tokens one step can commit; 1 for plain decoding.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.text = ""
        self.tokens = 0
        self.ended = False

    def events(self, chunk: dict[str, Any]) -> list[Event]:
        if "error" in chunk:
            error = chunk["error"]
            raise _trouble(int(error.get("code") or 400), error.get("message") or str(error))
        meta = chunk["meta_info"]
        reason = meta.get("finish_reason")
        if reason and reason.get("type") == "abort":
            raise _trouble(int(reason.get("status_code") or 500), reason.get("message") or "the request was aborted")
        events = []
        tokens, text = meta["completion_tokens"] - self.tokens, self._added(chunk)
        if tokens or text:
            events.append({"event": "step", "text": text, "tokens": tokens, "steps": self._steps(tokens)})
        self.tokens = meta["completion_tokens"]
        if reason:
            self.ended = True
            events.append(
                {
                    "event": "end",
                    "reason": reason["type"],
                    "prompt_tokens": meta["prompt_tokens"],
                    "completion_tokens": self.tokens,
                    "steps": meta.get("spec_verify_ct"),
                }
            )
        return events

    def _added(self, chunk: dict[str, Any]) -> str:
        text = chunk.get("text") or ""
        # A server with --incremental-streaming-output sends what is new; then there are fewer ids than counted tokens.
        if len(chunk.get("output_ids", ())) < chunk["meta_info"]["completion_tokens"]:
            self.text += text
            return text
        added = text[len(self.text) :]
        self.text = text
        return added

    def _steps(self, tokens: int) -> int:
        """The fewest steps that commit so many tokens; the answer's first token needs none."""
        return math.ceil((tokens if self.tokens else tokens - 1) / self.block_size)


def _trouble(status: int, body: str) -> Trouble:
    message = _message(body) or f"status {status} without a word"
    if status in (429, 503):
        return Trouble("busy", message)
    return Trouble("refused" if 400 <= status < 500 else "failed", message)


def _message(body: str) -> str:
    """The sentence inside an error reply, however deep the server packed it."""
    try:
        found = json.loads(body)
    except ValueError:
        return body.strip()[:500]
    while isinstance(found, dict):
        found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), json.dumps(found))
    return str(found)[:500]


def _cannot_reach(url: str, error: Exception) -> str:
    if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
        return f"the server at {url} broke off the connection"
    if isinstance(error, ValueError):
        return f"the server at {url} sent what is no JSON; is it an SGLang server?"
    return f"cannot reach the server at {url} ({type(error).__name__})"
