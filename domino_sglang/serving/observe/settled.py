"""The moment at which SGLang settles a step of a request, and knows whether and where its answer ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from domino_sglang.serving.observe.reasoning import forget_reasoning_behind_the_end

# Called with the request and the tokens that its step has added, a prefill's one included. SGLang patches a function
# once, when plugins load; what is known later, in the scheduler, joins here.
WHEN_SETTLED: list[Callable[[Any, int], None]] = [forget_reasoning_behind_the_end]


def settled(_result: None, req: Any, new_accepted_len: int = 1) -> None:
    """After ``Req.update_finish_state``."""
    for observe in WHEN_SETTLED:
        observe(req, new_accepted_len)
