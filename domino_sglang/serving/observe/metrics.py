"""What an operator watches beside SGLang's own numbers: how far into the block proposals are accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import Counter

from domino_sglang.serving.observe.settled import WHEN_SETTLED


class PositionCounters:
    """Prometheus counters of verify steps and of accepted proposals by position in the block.

    ``domino:accepted_proposals_total{position="j"} / domino:verify_steps_total`` is the probability that proposal j is
    committed; the sum over j, plus one for the bonus token, is the acceptance length. Counted per request, on the host,
    when SGLang settles a step. Of a step that a stop or ``max_tokens`` cuts, what lies behind the cut is not counted,
    and the last token before it stands for the bonus token: what nobody gets makes no drafter look better.
    """

    def __init__(self, model_name: str, num_proposals: int):
        labels = {"model_name": model_name}
        steps = Counter("domino:verify_steps_total", "Verify steps, counted per request.", labels.keys())
        accepted = Counter(
            "domino:accepted_proposals_total",
            "Proposals committed, by their position in the draft block (1 is the first).",
            [*labels, "position"],
        )
        self.steps = steps.labels(**labels)
        self.accepted = [accepted.labels(**labels, position=str(j + 1)) for j in range(num_proposals)]

        self._unsettled: set[str] = set()

    def verified(self, _result: None, req: Any, _num_correct_drafts: int) -> None:
        """After ``Req.update_spec_correct_drafts_histogram``: a step of this request is about to be settled."""
        self._unsettled.add(req.rid)

    def settled(self, req: Any, new_accepted_len: int) -> None:
        """One of :data:`WHEN_SETTLED`."""
        if req.rid in self._unsettled:
            self._unsettled.discard(req.rid)
            behind = len(req.output_ids) - len(req.output_ids_through_stop)
            self.observe(new_accepted_len - behind - 1)

    def observe(self, num_accepted: int) -> None:
        """Count one request's verify step that committed ``num_accepted`` proposals."""
        self.steps.inc()
        for counter in self.accepted[: max(num_accepted, 0)]:
            counter.inc()


def count_positions(model_name: str, num_proposals: int) -> PositionCounters:
    """Count from now on, in this scheduler process, whenever SGLang settles a request's verify step."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    counters = PositionCounters(model_name, num_proposals)
    HookRegistry.register(
        "sglang.srt.managers.schedule_batch.Req.update_spec_correct_drafts_histogram", counters.verified, HookType.AFTER
    )
    WHEN_SETTLED.append(counters.settled)
    HookRegistry.apply_hooks()
    return counters


def count_blocks(model_name: str) -> Callable[[int], None]:
    """Count decode steps by the length of their blocks, under ``--speculative-adaptive``.

    Returns:
        to be called with the number of proposals of each decode step.
    """
    labels = {"model_name": model_name}
    steps = Counter(
        "domino:decode_steps_total",
        "Decode steps of a whole batch, by proposals in a block (0 is plain decoding).",
        [*labels, "proposals"],
    )
    return lambda proposals: steps.labels(**labels, proposals=str(proposals)).inc()
