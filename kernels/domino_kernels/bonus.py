"""The bonus token of rejection sampling: the function of ``core.verify.bonus``, in one kernel."""

from __future__ import annotations

import torch
import triton

from domino_kernels.arguments import Sampling
from domino_kernels.checks import check_tensor
from domino_kernels.device import INTERPRETED, device_limits
from domino_kernels.ops.ordering import NO_CANDIDATE
from domino_kernels.ops.residual import residual_kernel
from domino_kernels.plan import Device, Shape, make_plan

LARGEST_BLOCK_B = 32
"""Requests per program: two races and a row of q for each of more would spill."""


class BonusDraw:
    """Draws from ``max(scale * p - q, 0)``, recomputing of q the one row that each request needs.

    Args:
        w2: ``[W, R]``, the whole vocabulary's.

    Raises:
        ValueError: ``w2`` is neither on a GPU nor interpreted.
    """

    def __init__(self, w2: torch.Tensor):
        self.w2 = w2
        self._limits = self._device_limits()

    def _device_limits(self) -> Device:
        return device_limits(self.w2.device)

    def _launch(self, kernel, grid: tuple[int, ...], *arguments, **options) -> None:
        """Every launch passes here, so that a benchmark can record it without a GPU."""
        kernel[grid](*arguments, **options)

    @torch.no_grad()
    def __call__(
        self,
        p: torch.Tensor,
        draft_tokens: torch.Tensor,
        base_logits: torch.Tensor,
        correction: torch.Tensor,
        logsumexp: torch.Tensor,
        sampling: Sampling,
        index: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The bonus token of each request, int64 ``[B]``; from p where the residual has no mass.

        Args:
            p: float32 ``[B, S + 1, V]``, the last dimension contiguous; NaN and infinities are no mass.
            draft_tokens: int64 ``[B, S]``, contiguous.
            base_logits: ``[B, S, W]``, any strides. W may differ from V: tokens beyond W have no q.
            correction: ``[B, S, R]``, contiguous, in the dtype of ``w2``.
            logsumexp: float32 ``[B, S]``, contiguous, as the rollout left it.
            sampling: how the block was drafted. Temperature 0 was greedily: its q is the point mass at its token.
            index: int64 ``[B]``, the row of p, 0..S; at S nothing was drafted, and q is zero.
            scale: float32 ``[B]``; 1 when None.

        Raises:
            ValueError: a shape, dtype or device unlike these.
        """
        batch, proposals = draft_tokens.shape
        vocab, device, (rows, rank) = p.shape[-1], self.w2.device, self.w2.shape
        check_tensor("p", p, (batch, proposals + 1, vocab), (torch.float32,), device)
        check_tensor("draft_tokens", draft_tokens, (batch, proposals), (torch.int64,), device)
        check_tensor("base_logits", base_logits, (batch, proposals, rows), (base_logits.dtype,), device)
        check_tensor("correction", correction, (batch, proposals, rank), (self.w2.dtype,), device)
        check_tensor("logsumexp", logsumexp, (batch, proposals), (torch.float32,), device)
        check_tensor("index", index, (batch,), (torch.int64,), device)
        if p.stride(-1) != 1 or not all(x.is_contiguous() for x in (draft_tokens, correction, logsumexp)):
            raise ValueError("p's last dimension, draft_tokens, correction and logsumexp must be contiguous")
        if scale is None:
            scale = torch.ones(batch, device=device)
        keys = torch.full((2, batch), NO_CANDIDATE, dtype=torch.int64, device=device)
        # The tiles of a scan over W2, for which H and G do not matter.
        plan = make_plan(batch, Shape(rank, rows, 1, rank, proposals, self.w2.element_size()), self._limits)
        tile, block_b = plan.scan, min(plan.block_b, LARGEST_BLOCK_B)
        self._launch(residual_kernel, (triton.cdiv(batch, block_b), plan.num_programs),
            p, p.stride(0), p.stride(1), base_logits, *base_logits.stride(), correction, self.w2, self.w2.stride(0),
            logsumexp, draft_tokens, index, scale, sampling.temperature, sampling.seed, sampling.position, keys,
            batch, proposals, vocab, rows, rank,
            BLOCK_B=block_b, BLOCK_V=tile.rows, BLOCK_R=tile.depth, WHOLE_RANK=tile.depth >= rank,
            USE_DOT=plan.use_dot, UPCAST=INTERPRETED, NUM_STAGES=tile.num_stages,
            num_warps=8 if block_b >= LARGEST_BLOCK_B else 4,
        )  # fmt: skip
        # A score above zero has an order above zero: the residual has mass.
        key = torch.where((keys[0] >> 32) > 0, keys[0], keys[1])
        return 0xFFFFFFFF - (key & 0xFFFFFFFF)
