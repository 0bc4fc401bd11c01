"""Inputs drawn by Hypothesis until one fails, then made small: a server answers slowly, so in few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.strategies import SearchStrategy

SHRINK_S = 150.0
Drawn = TypeVar("Drawn")


@dataclass
class Found:
    """One failure.

    Attributes:
        what: its kind, in words.
        features: names of what is odd about the input; the same kind with these and more counts as the same failure.
        shown: how to see it again, a line each.
        detail: what was seen, a line each.
        count: how often it was seen.
    """

    what: str
    features: frozenset[str]
    shown: Sequence[str]
    detail: str = ""
    count: int = 1

    def explains(self, what: str, features: frozenset[str]) -> bool:
        return what == self.what and self.features <= features

    def __str__(self) -> str:
        return "\n  ".join([self.what, *self.shown, *self.detail.splitlines()])


@dataclass
class Findings:
    """What has been found and tried so far."""

    say: Callable[[str], None] = print
    found: list[Found] = field(default_factory=list)
    tried: int = 0

    def add(self, failure: Found | None) -> None:
        if failure is not None:
            self.found.append(failure)
            self.say(f"FOUND {failure}\n")

    def is_known(self, what: str, features: frozenset[str]) -> bool:
        return any(failure.explains(what, features) for failure in self.found)

    def is_new(self, failure: Found) -> bool:
        """Counts it where it is not."""
        for other in self.found:
            if other.explains(failure.what, failure.features):
                other.count += 1
                return False
        return True


class _Hit(BaseException):
    """No ``Exception``: Hypothesis would draw on to make the example smaller, field by field and at great length."""

    def __init__(self, drawn: Any, failure: Found):
        super().__init__()
        self.drawn, self.failure = drawn, failure


def hunt(
    strategy: SearchStrategy[Drawn],
    number: int,
    examples: int,
    until: float,
    check: Callable[[Drawn], Found | None],
    smaller: Callable[[Drawn], Iterator[Drawn]],
) -> Found | None:
    """The smallest failure among so many examples, drawn from the seed ``number``; None when all of them hold.

    Args:
        until: of ``time.monotonic``; past it nothing is checked any more.
        check: what an example shows; may leave by an exception that is no ``Exception``.
        smaller: an example with one thing less, in every way.
    """

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def holds(drawn: Drawn) -> None:
        failure = check(drawn) if time.monotonic() < until else None
        if failure is not None:
            raise _Hit(drawn, failure)

    try:
        holds()
    except _Hit as hit:
        return _smallest(hit.drawn, hit.failure, min(until, time.monotonic() + SHRINK_S), check, smaller)
    return None


def _smallest(drawn: Drawn, failure: Found, until: float, check, smaller) -> Found:
    again = check(drawn)
    if again is None or again.what != failure.what:
        failure.detail += "\nseen once, and not when asked again"
        return failure
    candidates = smaller(drawn)
    while time.monotonic() < until and (candidate := next(candidates, None)) is not None:
        found = check(candidate)
        if found is not None and found.what == failure.what:
            failure, candidates = found, smaller(candidate)
    return failure
