"""What a rollout is given, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

Embedder = Callable[[torch.Tensor], torch.Tensor]
"""int64 tokens ``[B]`` -> embeddings ``[B, H]``, the last dimension contiguous; capturable in a CUDA graph."""

AllGather = Callable[[torch.Tensor], torch.Tensor]
"""A contiguous tensor ``[...]`` of this rank -> ``[W, ...]``, contiguous, of all W ranks; capturable."""


class Weights(Protocol):
    """The head's tensors, all of one dtype and device; ``domino_sglang.core.head.HeadWeights`` is one.

    ``w_ih [3G, H]``, ``w_hh [3G, G]`` (gates r, z, n), ``w1 [R, H + G]``, ``w2 [V, R]`` or a rank's rows of it, biases
    ``[3G]`` or None.
    """

    @property
    def w_ih(self) -> torch.Tensor: ...
    @property
    def w_hh(self) -> torch.Tensor: ...
    @property
    def w1(self) -> torch.Tensor: ...
    @property
    def w2(self) -> torch.Tensor: ...
    @property
    def b_ih(self) -> torch.Tensor | None: ...
    @property
    def b_hh(self) -> torch.Tensor | None: ...


class Sampling(Protocol):
    """Per request: float32 ``temperature`` (0 is greedy), int64 ``seed``, int64 ``position``; ``[B]`` each, static
    under CUDA graphs. ``domino_sglang.core.head.DraftSampling`` is one."""

    @property
    def temperature(self) -> torch.Tensor: ...
    @property
    def seed(self) -> torch.Tensor: ...
    @property
    def position(self) -> torch.Tensor: ...


@dataclass(frozen=True)
class VocabShard:
    """This rank's part of a vocabulary split by rows.

    Attributes:
        start: global id of row 0 of ``w2`` and of column 0 of the base logits.
        all_gather: called once per proposal with int64 ``[n, B]`` keys (8 bytes a request; the uncorrected proposals
            share one call) and once per block with float32 ``[B, S, 2]``.
    """

    start: int
    all_gather: AllGather


@dataclass(frozen=True)
class Proposals:
    """Views of static buffers, overwritten by the next call.

    Attributes:
        tokens: int64 ``[B, S]``.
        log_q: float32 ``[B, S]`` of each token under ``softmax(logits / temperature)`` (1 for greedy rows).
        logsumexp: float32 ``[B, S]`` of ``logits / temperature``.
        correction: ``[B, S, R]`` in the weights' dtype; zero for proposals 1..pure_draft_prefix_len.
    """

    tokens: torch.Tensor
    log_q: torch.Tensor
    logsumexp: torch.Tensor
    correction: torch.Tensor
