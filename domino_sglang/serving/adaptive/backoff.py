"""SGLang's policy for the length of the block, with backoff: a drafter that has rested in vain rests longer.

Where drafting does not pay, SGLang's policy drafts again after every ``update_interval`` steps of plain decoding, for
as many steps, to see whether it pays now: half of all steps then lose. Here each rest is twice the one before, up to
``LONGEST`` intervals, until drafting has outlived the first decision about it.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang.srt.speculative.adaptive_spec_params import AdaptiveSpeculativeParams, AdaptiveStepSlot

LONGEST = 32


@dataclass
class Backoff:
    """Of one entry of the table.

    Attributes:
        intervals: length of the next rest, in intervals of SGLang's policy.
        left: steps of this rest of which that policy does not hear.
        drafted: steps since the last rest.
    """

    intervals: int = 1
    left: int = 0
    drafted: int = 0

    def rest(self) -> bool:
        """Whether a step of plain decoding belongs to a rest that SGLang's policy must not end yet."""
        if self.left == 0:
            return False
        self.left -= 1
        return True

    def decided(self, proposals: int, changed: bool, interval: int) -> None:
        """SGLang's policy has heard of a step, and names ``proposals`` for the next."""
        if proposals:
            self.drafted += 1
            if self.drafted > interval:
                self.intervals = 1
        elif changed:
            self.left, self.drafted = (self.intervals - 1) * interval, 0
            self.intervals = min(2 * self.intervals, LONGEST)


class BackoffParams(AdaptiveSpeculativeParams):
    """SGLang's ``AdaptiveSpeculativeParams`` with a backoff for each of its entries."""

    def __init__(self, initial_steps: int, cfg_path: str | None = None):
        super().__init__(initial_steps, cfg_path)
        self._backoff: dict[AdaptiveStepSlot, Backoff] = {slot: Backoff() for slot in self._slots.values()}

    def on_verify_complete(self, num_correct_drafts_per_req: list[int], batch_size: int) -> int | None:
        slot = self._route(batch_size)
        backoff = self._backoff[slot]
        if slot.current_steps == 0 and backoff.rest():
            return None
        steps = super().on_verify_complete(num_correct_drafts_per_req, batch_size)
        backoff.decided(slot.current_steps, steps is not None, slot.update_interval)
        return steps
