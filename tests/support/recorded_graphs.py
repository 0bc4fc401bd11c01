"""SGLang's own graph runner over :mod:`tests.support.recording`, through its hook for the graphs of other platforms."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import Any

from sglang.srt.model_executor.runner_backend.base_cuda_graph_backend import BaseCudaGraphBackend

from tests.support.recording import Recording


class RecordedGraphs(BaseCudaGraphBackend):
    """As SGLang's ``FullCudaGraphBackend``: one graph a shape."""

    replays: Counter[str] = Counter()  # by role: target or drafter

    def __init__(self, cuda_graph_runner, **_options):
        self.role = "drafter" if cuda_graph_runner.model_runner.is_draft_worker else "target"
        self.graphs: dict[Any, tuple[Recording, Any]] = {}

    @contextmanager
    def capture_session(self, stream):
        yield

    @contextmanager
    def replay_session(self):
        yield

    def capture_one(self, shape_key, forward_fn, capture_inputs=None, post_warmup_hook=None) -> None:
        forward_fn()  # SGLang does it twice; here that would cost seconds
        if post_warmup_hook is not None:
            post_warmup_hook()
        recording = Recording()
        with recording:
            output = forward_fn()
        self.graphs[shape_key] = recording, output

    def can_run(self, forward_batch, shape_key) -> bool:
        return shape_key in self.graphs

    def replay(self, shape_key, static_forward_batch, **kwargs):
        recording, output = self.graphs[shape_key]
        recording.replay()
        RecordedGraphs.replays[self.role] += 1
        return output

    def cleanup(self) -> None:
        self.graphs.clear()
