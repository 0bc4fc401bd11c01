"""CUDA-graph replay times, copy bandwidth, and where tokens differ from the fp32 oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from rollout_arms import Inputs, Model, oracle_weights

from domino_sglang.core.head import Draft, corrected_logits, rollout


@dataclass(frozen=True)
class Times:
    """Microseconds per replay.

    Attributes:
        median, p10, p90: each replay after the L2 was overwritten, as the target's weights do between two drafts.
        warm_median: replays back to back, which find in the L2 what the last one left.
    """

    median: float
    p10: float
    p90: float
    warm_median: float
    replays: int


def time_graph(call: Callable[[], torch.Tensor], replays: int) -> tuple[Times, torch.Tensor]:
    """Warm up, capture, replay; events around each replay. Returns the times and the last replay's output."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = call()
    for _ in range(10):
        graph.replay()
    warm = _replay(graph, replays, before=None)
    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flushed = torch.empty(max(4 * l2, 2**28), dtype=torch.uint8, device="cuda")
    cold = _replay(graph, replays, before=flushed.zero_)
    deciles = quantiles(cold, n=10)
    return Times(median(cold), deciles[0], deciles[-1], median(warm), replays), output.clone()


def _replay(graph: torch.cuda.CUDAGraph, replays: int, before: Callable[[], object] | None) -> list[float]:
    starts = [torch.cuda.Event(enable_timing=True) for _ in range(replays)]
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(replays)]
    for start, end in zip(starts, ends, strict=True):
        if before is not None:
            before()
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return [1e3 * start.elapsed_time(end) for start, end in zip(starts, ends, strict=True)]


def copy_bandwidth() -> float:
    """Bytes read plus written per second by a 2 GiB device-to-device copy."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    target.copy_(source)
    times = []
    for _ in range(20):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return 2 * source.numel() / median(times)


def run_oracle(model: Model, inputs: Inputs) -> Draft:
    """The rollout in float32 with the same (bfloat16) weights and base logits."""
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.no_grad():
            return rollout(
                oracle_weights(model),
                z=inputs.z.float(),
                base_logits=inputs.base,
                bonus_tokens=inputs.bonus,
                embedding=lambda tokens: model.embedding.weight[tokens].float(),
                pure_draft_prefix_len=model.shape.prefix,
            )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32


@dataclass(frozen=True)
class Differences:
    """Against the oracle; a request is followed up to its first differing proposal, after which inputs differ.

    Attributes:
        requests: how many differ at all.
        near_ties: of those, how many where the oracle scored the chosen token within ``NEAR_TIE`` of its best.
        largest_gap: in logits.
    """

    requests: int
    near_ties: int
    largest_gap: float


NEAR_TIE = 0.06
"""Logits: bfloat16 holds 8 bits, so a score near 8 is known to 2^-5 = 0.03, and two are compared."""


def count_differences(model: Model, inputs: Inputs, oracle: Draft, tokens: torch.Tensor) -> Differences:
    differs = tokens != oracle.tokens
    gaps = []
    for row in differs.any(1).nonzero().flatten().tolist():
        j = int(differs[row].int().argmax())
        logits = inputs.base[row, j].float()
        if j >= model.shape.prefix:
            logits = corrected_logits(logits, oracle.correction[row, j], model.head.embed_proj[2].weight.float())
        gaps.append(float(logits.max() - logits[tokens[row, j]]))
    return Differences(len(gaps), sum(gap <= NEAR_TIE for gap in gaps), max(gaps, default=0.0))
