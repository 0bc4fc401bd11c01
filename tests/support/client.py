"""A server asked over HTTP as a client would, with replies checked for what every reply must have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from domino_sglang.measure import client as measure


class Client(measure.Client):
    """``/generate`` and the server's own reports.

    Args:
        url: ``http://host:port``.
        model: name for the OpenAI endpoints.
    """

    def __init__(self, url: str, model: str):
        super().__init__(url)
        self.model = model

    def ids(self, prompt: str | list[int], sampling: dict[str, Any] | None = None, **body: Any) -> list[int]:
        return self.generate(prompt, sampling, **body)["output_ids"]

    def each(self, requests_: Sequence[tuple[str | list[int], dict[str, Any]]], concurrency: int) -> list[list[int]]:
        """Output ids of (prompt, sampling parameters) pairs, so many at a time."""
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda request: self.ids(*request), requests_))

    def chat_ids(self, message: str) -> list[int]:
        """Token ids of one user message in the model's chat template."""
        return self.conversation_ids([{"role": "user", "content": message}])

    def server_info(self) -> dict[str, Any]:
        return self.told("/server_info")

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
