"""A server asked over HTTP as a client would, with replies checked for what every reply must have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

TIMEOUT_S = 600


class Client:
    """``/generate`` and the server's own reports.

    Args:
        url: ``http://host:port``.
        model: name for the OpenAI endpoints.
    """

    def __init__(self, url: str, model: str):
        self.url, self.model = url, model

    def post(self, path: str, body: dict[str, Any], timeout_s: float = TIMEOUT_S) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=timeout_s)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=60)

    def generate(
        self, prompt: str | list[int] | None = None, sampling: dict[str, Any] | None = None, **body: Any
    ) -> Any:
        """Greedy by default; a string is text, a list is token ids."""
        if prompt is not None:
            body["text" if isinstance(prompt, str) else "input_ids"] = prompt
        body["sampling_params"] = {"temperature": 0, "max_new_tokens": 16} | (sampling or {})
        reply = self.post("/generate", body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def ids(self, prompt: str | list[int], sampling: dict[str, Any] | None = None, **body: Any) -> list[int]:
        return self.generate(prompt, sampling, **body)["output_ids"]

    def each(self, requests_: Sequence[tuple[str | list[int], dict[str, Any]]], concurrency: int) -> list[list[int]]:
        """Output ids of (prompt, sampling parameters) pairs, so many at a time."""
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda request: self.ids(*request), requests_))

    def chat_ids(self, message: str) -> list[int]:
        """Token ids of one user message in the model's chat template."""
        reply = self.post("/tokenize", {"model": self.model, "messages": [{"role": "user", "content": message}]})
        assert reply.status_code == 200, reply.text
        return reply.json()["tokens"]

    def flush_cache(self) -> None:
        reply = requests.post(self.url + "/flush_cache", timeout=60)
        assert reply.status_code == 200, reply.text

    def server_info(self) -> dict[str, Any]:
        return self.get("/server_info").json()

    def metric(self, name: str, **labels: str) -> float:
        """Sum over a Prometheus metric's samples that carry these labels; 0 when it has none yet."""
        return sum(value for found, value in self._samples(name) if labels.items() <= found.items())

    def _samples(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        from prometheus_client.parser import text_string_to_metric_families

        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name:
                    yield sample.labels, sample.value


class Reference(Client):
    """Plain decoding as a reference: a greedy answer is the same every time, so each question is asked once."""

    def __init__(self, url: str, model: str):
        super().__init__(url, model)
        self._answers: dict[str, str] = {}

    def generate(
        self, prompt: str | list[int] | None = None, sampling: dict[str, Any] | None = None, **body: Any
    ) -> Any:
        if (sampling or {}).get("temperature", 0) != 0:
            return super().generate(prompt, sampling, **body)
        question = json.dumps([prompt, sampling, body], sort_keys=True)
        if question not in self._answers:
            self._answers[question] = json.dumps(super().generate(prompt, sampling, **body))
        return json.loads(self._answers[question])


def stream_events(reply: requests.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, up to its ``[DONE]``."""
    for line in reply.iter_lines():
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
