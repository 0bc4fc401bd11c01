"""One SGLang server, asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import httpx

from domino_sglang.measure.sse import Event, events

# A server under load may take long to begin an answer.
TIMEOUT_S = 600.0
REPORT_TIMEOUT_S = 60.0
Json = Any


class Client:
    """May be shared by threads; every request has a connection of its own, so closing a stream aborts its answer.

    Whatever goes wrong is an ``httpx.HTTPError``.

    Args:
        url: ``http://host:port``, without a slash at the end.
    """

    def __init__(self, url: str):
        self.url = url
        # Asked directly, whatever proxy the environment names; an idle connection could be closed under a request.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S, limits=limits)

    def get(self, path: str, timeout_s: float = REPORT_TIMEOUT_S) -> httpx.Response:
        """The reply, whatever its status."""
        return self._http.get(path, timeout=timeout_s)

    def post(self, path: str, body: Json = None, timeout_s: float = TIMEOUT_S) -> httpx.Response:
        """The reply, whatever its status."""
        return self._http.post(path, json=body, timeout=timeout_s)

    def told(self, path: str) -> Json:
        """What the server says of itself at ``path``.

        Raises:
            httpx.HTTPError: no server, or a status that is no success, with the server's words.
        """
        return successful(self.get(path)).json()

    def ask(self, path: str, body: Json, timeout_s: float = TIMEOUT_S) -> Json:
        """The answer to ``body``; raises as :meth:`told`."""
        return successful(self.post(path, body, timeout_s)).json()

    @contextmanager
    def stream(self, path: str, body: Json, timeout_s: float = TIMEOUT_S) -> Iterator[Iterator[Event]]:
        """The answer to ``body`` event by event; raises as :meth:`told`. Leaving the ``with`` hangs up."""
        with self._http.stream("POST", path, json=body, timeout=timeout_s) as reply:
            if not reply.is_success:
                reply.read()
            yield events(successful(reply).iter_bytes())

    def served_model(self) -> str:
        """Name of the first model served."""
        return self.told("/v1/models")["data"][0]["id"]

    def answers(self, path: str = "/v1/models", timeout_s: float = 30.0) -> bool:
        """Whether there is a server that answers at ``path``."""
        try:
            return self.get(path, timeout_s).is_success
        except httpx.HTTPError:
            return False

    def flush_cache(self) -> None:
        """Forget cached prefixes; raises as :meth:`told`, also when requests still run after half a minute."""
        successful(self.post("/flush_cache?timeout=30"))

    def conversation_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation in the model's chat template, up to where its answer begins."""
        return self.ask("/v1/tokenize", {"messages": [*messages]})["tokens"]

    def generate(
        self, prompt: str | Sequence[int] | None = None, sampling: Mapping[str, Any] | None = None, **body: Any
    ) -> Json:
        """``/generate``, greedy by default; a string is text, a list is token ids."""
        if prompt is not None:
            body["text" if isinstance(prompt, str) else "input_ids"] = prompt
        body["sampling_params"] = {"temperature": 0, "max_new_tokens": 16, **(sampling or {})}
        return self.ask("/generate", body)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def successful(reply: httpx.Response) -> httpx.Response:
    """The reply itself.

    Raises:
        httpx.HTTPStatusError: its status is no success; says what the server said.
    """
    if reply.is_success:
        return reply
    said = reply.text.strip()[:300] or "no words"
    raise httpx.HTTPStatusError(
        f"{reply.request.url} answered with status {reply.status_code}: {said}", request=reply.request, response=reply
    )
