"""One thing that is wrong with a checkpoint, in the words of the person who has to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from domino_sglang.core.config import CheckpointError


@dataclass(frozen=True)
class Problem:
    """What is wrong, the value found, the value needed, and what to do; the last three may be part of the first."""

    what: str
    found: str = ""
    expected: str = ""
    fix: str = ""

    def __str__(self) -> str:
        line = self.what
        if self.found:
            line += f": found {self.found}"
        if self.expected:
            line += f", expected {self.expected}"
        return f"{line}; {self.fix}" if self.fix else line


def refuse(problems: Sequence[Problem], see: str) -> None:
    """Raise the first problem as a one-line :class:`CheckpointError` that says how to see the others.

    Args:
        see: the command that lists every problem.
    """
    if not problems:
        return
    more = f" ({len(problems) - 1} more: {see})" if len(problems) > 1 else ""
    raise CheckpointError(f"{problems[0]}{more}")
