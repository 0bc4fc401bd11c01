"""The users of a soak: each sends one random request after the other, and some hang up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

import httpx

from domino_sglang.bench.soak.kinds import KINDS, Kind, common_check
from domino_sglang.bench.soak.rows import ANSWERED, DISCONNECTED, FAILED, SoakRow
from domino_sglang.measure.client import TIMEOUT_S, Client


class Users:
    """``count`` threads that ask until :meth:`stop`.

    Args:
        disconnects: share of requests whose client hangs up early.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        count: int,
        disconnects: float,
        seed: int,
        kinds: Sequence[Kind] = KINDS,
    ):
        self.client, self.model, self.disconnects, self.kinds = client, model, disconnects, kinds
        self.rows: list[SoakRow] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed} {i}"),), daemon=True) for i in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, patience_s: float = TIMEOUT_S) -> bool:
        """Let requests in flight end; whether all did."""
        self._stop.set()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def counts(self) -> dict[str, int]:
        with self._lock:
            return {name: sum(r.outcome == name for r in self.rows) for name in (ANSWERED, DISCONNECTED, FAILED)}

    def _run(self, draw: random.Random) -> None:
        while not self._stop.is_set():
            row = self._one(draw)
            with self._lock:
                self.rows.append(row)
            if row.outcome == FAILED:
                # A server that is gone refuses at once.
                self._stop.wait(1.0)

    def _one(self, draw: random.Random) -> SoakRow:
        kind = draw.choice(self.kinds)
        body = kind.body(draw) | {"model": self.model}
        streamed = kind.streams and draw.random() < 0.6
        hangs_up = draw.random() < self.disconnects
        start = time.monotonic()
        tokens, error = 0, None
        outcome = ANSWERED
        try:
            if streamed:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
                left, tokens = _stream(self.client, kind.path, body, draw.randrange(6) if hangs_up else None)
                outcome = DISCONNECTED if left else ANSWERED
            elif hangs_up:
                outcome, tokens = _abandon(self.client, kind.path, body, draw.uniform(0.05, 1.0)), 0
            else:
                tokens = _ask(self.client, body, kind)
        except Exception as problem:
            outcome, error = FAILED, f"{type(problem).__name__}: {problem}"[:500]
        seconds = time.monotonic() - start
        return SoakRow(kind.name, streamed, outcome, start - self._began, seconds, tokens, error)


def _ask(client: Client, body: dict, kind: Kind) -> int:
    found = client.ask(kind.path, body)
    common_check(found)
    kind.check(found)
    return found["usage"]["completion_tokens"]


def _stream(client: Client, path: str, body: dict, leave_after: int | None) -> tuple[bool, int]:
    """Read a stream, or hang up after so many events; whether it was left, and its tokens."""
    tokens, ended = 0, False
    with client.stream(path, body) as events:
        for number, event in enumerate(events):
            if event.get("error") or event.get("object") == "error":
                raise RuntimeError(f"error in the stream: {event}")
            if leave_after is not None and number >= leave_after:
                return True, tokens
            ended = ended or any(choice.get("finish_reason") for choice in event.get("choices") or ())
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    if not ended or not tokens:
        raise RuntimeError("the stream ended without a finish reason or without its usage")
    return False, tokens


def _abandon(client: Client, path: str, body: dict, after_s: float) -> str:
    """Send a request and hang up after so many seconds, unless it was answered by then."""
    try:
        client.ask(path, body, timeout_s=after_s)
    except httpx.TimeoutException:
        return DISCONNECTED
    return ANSWERED
