"""What ``bench exactness`` writes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CACHES = ("cold", "warm")


@dataclass(frozen=True)
class ExactnessSettings:
    """What was asked; ``servers`` maps an arm to its command line or URL, ``prompts`` a workload to how many."""

    servers: dict[str, str]
    prompts: dict[str, int]
    concurrencies: list[int]
    max_tokens: int


@dataclass(frozen=True)
class Difference:
    """The first place where one prompt's outputs part.

    Attributes:
        prompt: its name.
        position: of the first differing output token.
        plain, domino: the token of each arm there, None past its end.
        gaps: by arm, how far its log-probability of plain's token is above that of DOMINO's, after the same prefix.
    """

    prompt: str
    position: int
    plain: int | None
    domino: int | None
    gaps: dict[str, float]

    def __str__(self) -> str:
        gaps = ", ".join(f"{name} puts {gap:+.6f} between them" for name, gap in self.gaps.items())
        return f"{self.prompt}: token {self.position} is {self.domino}, plain decoding's is {self.plain} ({gaps})"


@dataclass(frozen=True)
class PlainRow:
    """Plain decoding's answers at one concurrency: how many tokens, and how many answers are not those of the first
    concurrency."""

    concurrency: int
    tokens: int
    differs_from_itself: int
    kind: Literal["plain"] = "plain"


@dataclass(frozen=True)
class PassRow:
    """DOMINO's answers against plain decoding's at the same concurrency.

    Attributes:
        cache: ``cold`` or ``warm``: whether the prefix cache held the prompts.
        acceptance_length: committed tokens per verify step, as the server counted it.
    """

    concurrency: int
    cache: str
    differences: list[Difference]
    acceptance_length: float | None
    kind: Literal["pass"] = "pass"
