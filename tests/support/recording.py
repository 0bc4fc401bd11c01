"""What CUDA would capture in a graph, recorded without CUDA, and launched again by a replay.

A recording keeps what matters of a CUDA graph: a replay runs no Python of the model's, reads and writes the tensors of
the capture at their addresses, with the scalars of the capture; memory that nothing wrote holds NaN; and what CUDA
refuses to capture (a value that the host waits for, a shape that depends on data, a copy from the host) is refused
here. Triton's kernels are recorded in Triton's interpreter (:func:`record_kernels`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

FORBIDDEN = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
FROM_THE_HOST = torch.ops.aten.lift_fresh.default
UNWRITTEN = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.empty_like.default,
)


class Recording(TorchDispatchMode):
    """Runs and records every operation and every Triton kernel within."""

    active: Recording | None = None

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[], Any]] = []
        self.allocations = 0

    def __enter__(self):
        Recording.active = self
        return super().__enter__()

    def __exit__(self, *error):
        Recording.active = None
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is FROM_THE_HOST or any(tag in func.tags for tag in FORBIDDEN):
            raise RuntimeError(f"{func} cannot be captured in a CUDA graph")
        result = func(*args, **kwargs)
        returns = func._schema.returns
        if func in UNWRITTEN:
            self.allocations += 1
            self.steps.append(lambda: _spoil(result))
        elif func._schema.is_mutable:
            self.steps.append(lambda: func(*args, **kwargs))
        elif all(value.alias_info is None for value in returns):
            self.allocations += 1
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


def record_kernels() -> None:
    """Let Triton's interpreter tell a recording of its launches, in this process."""
    from triton.runtime.interpreter import GridExecutor

    if hasattr(GridExecutor, "launch"):
        return
    GridExecutor.launch = GridExecutor.__call__

    def call(self, *args, **kwargs):
        recording = Recording.active
        return self.launch(*args, **kwargs) if recording is None else recording.launch(self, args, kwargs)

    GridExecutor.__call__ = call
