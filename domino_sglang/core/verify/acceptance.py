"""What a verify step decides, and the greedy rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Acceptance:
    """The outcome of one verify step.

    Attributes:
        accept_len: int32 ``[B]``, accepted proposals, the bonus token not counted: 0..S.
        bonus: int64 ``[B]``, the target's own token after the accepted proposals.
    """

    accept_len: torch.Tensor
    bonus: torch.Tensor

    @property
    def commit_len(self) -> torch.Tensor:
        """int32 ``[B]``, committed tokens, the bonus token counted: 1..S+1."""
        return self.accept_len + 1


def accept_greedy(draft_tokens: torch.Tensor, target_predict: torch.Tensor) -> Acceptance:
    """Accept the longest prefix the target would have chosen itself.

    Args:
        draft_tokens: int64 ``[B, S]``.
        target_predict: int64 ``[B, S+1]``, argmax of the target after x0, x1, ..., xS.
    """
    agree = draft_tokens == target_predict[:, :-1]
    accept_len = leading_true(agree)
    bonus = target_predict.gather(1, accept_len[:, None].long()).squeeze(1)
    return Acceptance(accept_len, bonus.long())


def with_greedy_rows(
    sampled: Acceptance,
    p: torch.Tensor,
    draft_tokens: torch.Tensor,
    target_greedy: torch.Tensor | None,
    target_predict: torch.Tensor | None,
) -> Acceptance:
    """Decide the rows of ``target_greedy`` (bool ``[B]``) greedily and leave the others as they are.

    A top-k of 1 keeps every token that ties for the maximum, so a greedy request sampled from p could leave the text
    that plain greedy decoding gives; the argmax cannot. ``target_predict`` (int64 ``[B, S+1]``) defaults to p's argmax.
    """
    if target_greedy is None:
        return sampled
    greedy = accept_greedy(draft_tokens, p.argmax(-1) if target_predict is None else target_predict)
    return Acceptance(
        torch.where(target_greedy, greedy.accept_len, sampled.accept_len),
        torch.where(target_greedy, greedy.bonus, sampled.bonus),
    )


def leading_true(flags: torch.Tensor) -> torch.Tensor:
    """Length of the leading run of True in each row: bool ``[B, S]`` -> int32 ``[B]``."""
    return flags.int().cumprod(1).sum(1).int()
