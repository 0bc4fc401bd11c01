"""What ``bench accept`` writes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AcceptSettings:
    """What was decoded."""

    workloads: list[str]
    temperatures: list[float]
    num_prompts: int
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class AcceptRow:
    """One prompt decoded one way.

    Attributes:
        drafts: ``sampled`` or ``greedy``; empty for plain decoding.
        accepted: accepted proposals of each verify step.
        tokens: new tokens after the first; ``seconds`` is what they took.
    """

    workload: str
    prompt: int
    temperature: float
    arm: str
    drafts: str
    accepted: list[int]
    tokens: int
    seconds: float
    kind: Literal["acceptance"] = "acceptance"
