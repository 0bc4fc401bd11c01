"""What ``bench accept`` writes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class AcceptSettings:
    """What was decoded, and how it was drafted."""

    workloads: list[str]
    temperatures: list[float]
    proposals: list[float]
    topk: int
    num_prompts: int
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Way:
    """A way of drafting and of choosing what is verified.

    Attributes:
        topk: paths side by side and children of each; 1 is a chain.
        head: False drafts from the base logits alone.
        ragged: the batch's likeliest nodes are verified; else each request's, as many for all.
    """

    topk: int
    head: bool
    ragged: bool

    @property
    def name(self) -> str:
        kind = ("chain" if self.topk == 1 else "tree") + ("" if self.head else " without the head")
        return f"{kind}, ragged" if self.ragged else kind


@dataclass(frozen=True)
class AcceptRow:
    """One prompt's answer, drafted one way.

    Attributes:
        proposals: verified a step and request, on average.
        committed: tokens of each verify step, bonus included; the last is cut where the answer ends.
    """

    workload: str
    prompt: int
    temperature: float
    way: Way
    proposals: float
    committed: list[int]
    kind: Literal["acceptance"] = "acceptance"
