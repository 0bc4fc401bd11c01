"""CUDA graphs without CUDA: what a capture would launch is recorded, and a replay launches it again.

A recorded graph keeps what matters of a CUDA graph: a replay runs no Python of the model's, reads and writes the
tensors of the capture at their addresses, with the scalars of the capture; memory that nothing wrote holds NaN; and
what CUDA refuses to capture (a value that the host waits for, a shape that depends on data, a copy from the host) is
refused here. SGLang's own runner captures and replays it, through SGLang's hook for the graphs of other platforms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from sglang.srt.model_executor.runner_backend.base_cuda_graph_backend import BaseCudaGraphBackend
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

FORBIDDEN = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
FROM_THE_HOST = torch.ops.aten.lift_fresh.default
UNWRITTEN = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.empty_like.default,
)


class Recording(TorchDispatchMode):
    """Runs and records every operation and every Triton kernel within."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is FROM_THE_HOST or any(tag in func.tags for tag in FORBIDDEN):
            raise RuntimeError(f"{func} cannot be captured in a CUDA graph")
        result = func(*args, **kwargs)
        returns = func._schema.returns
        if func in UNWRITTEN:
            self.steps.append(lambda: _spoil(result))
        elif func._schema.is_mutable:
            self.steps.append(lambda: func(*args, **kwargs))
        elif all(value.alias_info is None for value in returns):
            self.steps.append(lambda: _write(result, func(*args, **kwargs)))
        # Else a view: it shows what its base holds.
        return result

    def launch(self, executor, args, kwargs) -> None:
        def run() -> None:
            with _disable_current_modes():
                executor.launch(*args, **kwargs)

        run()
        self.steps.append(run)

    def replay(self) -> None:
        for step in self.steps:
            step()


def _write(into: Any, values: Any) -> None:
    for old, new in zip(tree_leaves(into), tree_leaves(values), strict=True):
        if isinstance(old, torch.Tensor):
            old.copy_(new)


def _spoil(tensor: torch.Tensor) -> None:
    if tensor.dtype.is_floating_point:
        tensor.fill_(torch.nan)


class RecordedGraphs(BaseCudaGraphBackend):
    """As SGLang's ``FullCudaGraphBackend``: one graph a shape."""

    recording: Recording | None = None
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
        RecordedGraphs.recording = recording
        try:
            with recording:
                output = forward_fn()
        finally:
            RecordedGraphs.recording = None
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


def record_kernels() -> None:
    """Let the interpreter tell a recording of its launches, in this process."""
    executor = interpreter.GridExecutor
    executor.launch = executor.__call__

    def call(self, *args, **kwargs):
        recording = RecordedGraphs.recording
        return self.launch(*args, **kwargs) if recording is None else recording.launch(self, args, kwargs)

    executor.__call__ = call
