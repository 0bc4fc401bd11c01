"""A locust user that chats: one streamed request after the other, timed to the first text and to the last.

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:30000 --tags chat

opens the web UI; ``--headless -u 8 -r 8 -t 60s`` runs without one. Tags choose the workload: humaneval, maths, chat,
long, mixed. Beside locust's own numbers there are two rows of a custom metric for each workload: TTFT (milliseconds to
the first text) and TPOT (milliseconds per output token after the first).
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
from locust import HttpUser, constant, events, tag, task
from locust.exception import StopUser

from domino_sglang.bench.common.rows import append
from domino_sglang.bench.sweep.rows import RequestRow
from domino_sglang.measure.jsonl import numbered_lines
from domino_sglang.measure.stream import StreamError, StreamResult, read_stream
from domino_sglang.measure.workloads import WORKLOADS
from domino_sglang.names import BENCH_REQUEST_TIMEOUT

REQUEST_TIMEOUT_S = float(os.environ.get(BENCH_REQUEST_TIMEOUT, "900"))


@events.init_command_line_parser.add_listener
def add_options(parser) -> None:
    """Options beside locust's own; the web UI shows them too."""
    group = parser.add_argument_group("domino-sglang")
    group.add_argument("--temperature", type=float, default=0.0, help="sampling temperature; 0 is greedy")
    group.add_argument("--max-tokens", type=int, default=256, help="longest answer, in tokens")
    group.add_argument("--model-name", default="", help="model to ask for; empty takes the server's first")
    group.add_argument("--prompts", default="", help="JSONL of chat requests, asked in order by the tag 'file'")
    group.add_argument("--requests-out", default="", help="JSONL file that takes a row for each request")


class Session:
    """What the users of one run share: the queue of requests, and where rows go."""

    def __init__(self, options):
        self.options = options
        self.out = Path(options.requests_out) if options.requests_out else None
        self.model = options.model_name
        self._cycles: dict[str, Iterator] = {}
        self.queue: Iterator[dict[str, Any]] = iter(())
        self.remaining = 0
        if options.prompts:
            bodies = [json.loads(line) for _, line in numbered_lines(Path(options.prompts))]
            self.queue, self.remaining = iter(bodies), len(bodies)

    def next_prompt(self, workload: str):
        if workload not in self._cycles:
            self._cycles[workload] = itertools.cycle(WORKLOADS[workload]())
        return next(self._cycles[workload])


@events.test_start.add_listener
def begin(environment, **_kwargs) -> None:
    """A fresh queue for each run, in the web UI too."""
    environment.domino = Session(environment.parsed_options)


class ChatUser(HttpUser):
    """Closed loop: the next request goes out when the last one has ended."""

    wait_time = constant(0)

    @tag("humaneval")
    @task
    def humaneval(self) -> None:
        self._ask_next("humaneval")

    @tag("maths")
    @task
    def maths(self) -> None:
        self._ask_next("maths")

    @tag("chat")
    @task
    def chat(self) -> None:
        self._ask_next("chat")

    @tag("long")
    @task
    def long(self) -> None:
        self._ask_next("long")

    @tag("mixed")
    @task
    def mixed(self) -> None:
        self._ask_next("mixed")

    @tag("file")
    @task
    def file(self) -> None:
        """The next request of ``--prompts``; the run ends with the last answer. Without that option: mixed."""
        session = self.environment.domino
        if not session.options.prompts:
            return self._ask_next("mixed")
        body = next(session.queue, None)
        if body is None:
            raise StopUser
        try:
            self._ask(body.pop("workload", "file"), body)
        finally:
            session.remaining -= 1
            if session.remaining == 0:
                # Not from inside a user, which quitting would wait for.
                gevent.spawn(self.environment.runner.quit)
        return None

    def _ask_next(self, workload: str) -> None:
        options = self.environment.parsed_options
        prompt = self.environment.domino.next_prompt(workload)
        self._ask(prompt.workload, prompt.body(options.max_tokens, options.temperature))

    def _ask(self, workload: str, body: dict[str, Any]) -> None:
        body |= {"model": self._model(), "stream": True, "stream_options": {"include_usage": True}}
        start = time.perf_counter()
        result, error = StreamResult(start), None
        with self.client.post(
            "/v1/chat/completions",
            json=body,
            stream=True,
            catch_response=True,
            name=workload,
            timeout=REQUEST_TIMEOUT_S,
        ) as reply:
            try:
                if reply.status_code != 200:
                    raise StreamError(f"status {reply.status_code}: {(reply.text or str(reply.error or ''))[:200]}")
                result = read_stream(reply.iter_content(512), start)
                reply.success()
            except Exception as problem:
                result.end = time.perf_counter()
                error = f"{type(problem).__name__}: {problem}"
                reply.failure(error)
        self._record(workload, result, error)

    def _record(self, workload: str, result: StreamResult, error: str | None) -> None:
        row = RequestRow(
            workload=workload,
            start=result.start,
            ttft=result.ttft,
            seconds=result.seconds,
            prompt_tokens=result.prompt_tokens,
            completion_tokens=result.completion_tokens,
            error=error,
        )
        if self.environment.domino.out is not None:
            append(self.environment.domino.out, row)
        for name, seconds in (("TTFT", row.ttft), ("TPOT", row.tpot)):
            if error is None and seconds is not None:
                self.environment.events.request.fire(
                    request_type=name,
                    name=workload,
                    response_time=1e3 * seconds,
                    response_length=row.completion_tokens,
                    exception=None,
                    context={},
                )

    def _model(self) -> str:
        session = self.environment.domino
        if not session.model:
            with self.client.get("/v1/models", catch_response=True, name="/v1/models") as reply:
                session.model = reply.json()["data"][0]["id"]
                reply.success()
        return session.model
