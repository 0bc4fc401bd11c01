"""Degenerate loops: a small model that repeats itself until the token budget ends."""

from __future__ import annotations

from collections.abc import Sequence

MAX_PERIOD = 48
MIN_LOOP_TOKENS = 48
MIN_REPEATS = 3


def loop_start(
    ids: Sequence[int], max_period: int = MAX_PERIOD, min_tokens: int = MIN_LOOP_TOKENS, repeats: int = MIN_REPEATS
) -> int | None:
    """Where the text began to repeat with one period up to its end, or None.

    A loop is a tail of at least ``min_tokens`` tokens and ``repeats`` whole periods, the period at most
    ``max_period`` tokens. Honest repetition (a table, two equal lines of code) is shorter.
    """
    length = len(ids)
    for period in range(1, min(max_period, length // repeats) + 1):
        start = length - period
        while start > 0 and ids[start - 1] == ids[start - 1 + period]:
            start -= 1
        if length - start >= max(min_tokens, repeats * period):
            return start
    return None


def looped_on(ids: Sequence[int], length: int, max_period: int = MAX_PERIOD) -> list[int]:
    """``ids`` continued to ``length`` tokens as if their last ones went on in a loop: a guess, for the target to check.

    The period is the one that explains most of the last tokens, the shortest of equals.
    """
    ids = list(ids)

    def explained(period: int) -> int:
        place = len(ids) - 1
        while place >= period and ids[place] == ids[place - period]:
            place -= 1
        return len(ids) - 1 - place

    period = max(range(1, min(max_period, len(ids)) + 1), key=explained)
    while len(ids) < length:
        ids.append(ids[-period])
    return ids


def repetition(ids: Sequence[int], n: int = 4) -> float:
    """Share of n-grams that occurred before in the text, 0 to 1."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
