"""Seeds of the ``n`` choices of one request.

SGLang sends the choices of a request with one ``sampling_seed``. Plain decoding ignores it unless asked for
determinism; here a seed makes a text, and the same seed would make the same text ``n`` times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.runtime_context import get_spec

STEP = 0x9E3779B97F4A7C15
LARGEST = 2**63 - 1


def next_seed(seed: int) -> int:
    """The seed of the choice after that of ``seed``, non-negative int64."""
    return (seed + STEP) & LARGEST


async def reseed_next_choice(send: Callable, manager: Any, request: Any) -> None:
    """Around ``TokenizerManager._send_one_request``: the first choice has the user's seed, each next one another.

    The choices of a request are sent one after the other, and share one object of sampling parameters.
    """
    params: Any = getattr(request, "sampling_params", None)  # what sends it may put a wrapper in its place
    await send(manager, request)
    seed = getattr(params, "sampling_seed", None)
    if seed is not None and get_spec().speculative_algorithm == "DOMINO":
        params.sampling_seed = next_seed(seed)
