"""Requests run together through a real scheduler and its own event loop, in one process: batches under control.

A task of the fork server. What is asked of the scheduler's loop is that it ends when the last request has.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

# What a request may say besides its prompt and its sampling parameters.
ARRIVES, ADAPTER, PROCESSOR = "arrives", "adapter", "processor"


def together(
    args: Any, requests: list[tuple[list[int], dict[str, Any]]], retract_every: int | None = None
) -> dict[str, Any]:
    """Serve the requests and say what became of them.

    Args:
        args: resolved server arguments; ``disable_overlap_schedule`` picks the loop.
        requests: prompts with sampling parameters; ``"arrives"`` among these names the iteration of the loop a request
            comes in at (0 if absent), ``"adapter"`` one of ``--lora-paths``, ``"processor"`` a custom logit processor.
        retract_every: retract a request at every so many forward passes, as SGLang does under ``SGLANG_TEST_RETRACT``.

    Returns:
        ``outputs``: token ids of each request; ``retractions``: of each request; ``cached``: tokens of its prompt that
        the prefix cache had; ``modes``: batches of each forward mode; ``replays``: of graphs, for target and drafter.
    """
    import torch
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.managers import scheduler as module

    from tests.support.fork_server import make_scheduler
    from tests.support.recorded_graphs import RecordedGraphs

    torch.set_num_threads(1)
    module.TEST_RETRACT, module.TEST_RETRACT_INTERVAL = retract_every is not None, retract_every or 1
    scheduler = make_scheduler(args)
    adapters = {ref.lora_name: ref.lora_id for ref in resolving_view(args).lora_paths or ()}
    loop = Loop(scheduler, requests, adapters)
    scheduler.ingest_requests = loop.ingest
    run_batch = scheduler.run_batch

    def watch(batch, *rest, **named):
        loop.modes[batch.forward_mode.name] += 1
        return run_batch(batch, *rest, **named)

    scheduler.run_batch = watch
    scheduler.run_event_loop()
    return {
        "outputs": [list(req.output_ids_through_stop) for req in loop.entered],
        "retractions": [req.retraction_count for req in loop.entered],
        "cached": [req.cached_tokens for req in loop.entered],
        "modes": dict(loop.modes),
        "replays": dict(RecordedGraphs.replays),
    }


class Loop:
    """Feeds the scheduler, and ends its loop."""

    def __init__(self, scheduler: Any, requests: list[tuple[list[int], dict[str, Any]]], adapters: dict[str, str]):
        self.scheduler, self.adapters = scheduler, adapters
        self.waiting = list(enumerate(requests))
        self.entered: list[Any] = []
        self.modes: Counter[str] = Counter()
        self.iteration = 0

    def ingest(self) -> None:
        from tests.support.fork_server import enqueue

        while self.waiting and self.waiting[0][1][1].get(ARRIVES, 0) <= self.iteration:
            number, (prompt, sampling) = self.waiting.pop(0)
            adapter = self.adapters[sampling[ADAPTER]] if ADAPTER in sampling else None
            processor = sampling.get(PROCESSOR)
            sampling = {key: value for key, value in sampling.items() if key not in (ARRIVES, ADAPTER, PROCESSOR)}
            self.entered.append(enqueue(self.scheduler, f"request-{number}", prompt, sampling, adapter, processor))
        self.iteration += 1
        self.scheduler.gracefully_exit = not self.waiting and all(req.finished() for req in self.entered)
