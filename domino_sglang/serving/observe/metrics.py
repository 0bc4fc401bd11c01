"""What an operator watches beside SGLang's own numbers: how far into the block proposals are accepted."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter


class PositionCounters:
    """Prometheus counters of verify steps and of accepted proposals by position in the block.

    ``domino:accepted_proposals_total{position="j"} / domino:verify_steps_total`` is the probability that proposal j is
    committed; the sum over j, plus one for the bonus token, is the acceptance length. Counted per request, on the host,
    when SGLang settles a step.
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

    def observe(self, num_accepted: int) -> None:
        """Count one request's verify step that committed ``num_accepted`` proposals."""
        self.steps.inc()
        for counter in self.accepted[:num_accepted]:
            counter.inc()


def count_positions(model_name: str, num_proposals: int) -> PositionCounters:
    """Count from now on, in this scheduler process, whenever SGLang settles a request's verify step."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    counters = PositionCounters(model_name, num_proposals)

    def settled(_result, _request, num_correct_drafts: int) -> None:
        counters.observe(num_correct_drafts)

    HookRegistry.register(
        "sglang.srt.managers.schedule_batch.Req.update_spec_correct_drafts_histogram", settled, HookType.AFTER
    )
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
