"""The loss of anchored blocks: ``(1 - lambda) CE(logits) + lambda CE(base logits)``, weighted by position.

Each cross entropy is against the token that was written, or with ``distill`` partly against the whole distribution the
target wrote it from: a label says which token, the distribution also says which others came close.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from domino_sglang.core.head import HeadWeights, gru_step
from domino_sglang.training.loop.vocabulary import FULL, Candidates

# Logits alive at once, 1 GiB of them; of more, each part is computed again in the backward pass.
CHUNK_LOGITS = 2**28


@dataclass(frozen=True)
class BlockLoss:
    """Sums over valid labels, so that ranks and chunks add up.

    Attributes:
        total: weighted sum of the curriculum's loss; the one to differentiate.
        final, base: weighted sums of the two cross entropies, detached.
        weight: sum of the weights, detached.
        correct: how many labels the final argmax hits (among the candidates), of ``labels``.
    """

    total: torch.Tensor
    final: torch.Tensor
    base: torch.Tensor
    weight: torch.Tensor
    correct: torch.Tensor
    labels: torch.Tensor


# FSDP2 finds the tensor to differentiate by walking the output of forward as a pytree.
torch.utils._pytree.register_dataclass(BlockLoss)


def position_weights(proposals: int, gamma: float, device: torch.device | str = "cpu") -> torch.Tensor:
    """``exp(-(k - 1) / gamma)`` for k = 1..S, float32 ``[S]``."""
    return torch.exp(-torch.arange(proposals, device=device, dtype=torch.float32) / gamma)


def teacher_forced_states(weights: HeadWeights, embeddings: torch.Tensor) -> torch.Tensor:
    """GRU states ``s_0..s_{S-1}`` after reading x0, x0 x1, ...: ``[N, S, H]`` -> ``[N, S, G]``."""
    states = []
    state = embeddings.new_zeros(embeddings.shape[0], weights.w_hh.shape[1])
    # The input half of the gates for all steps in one product; the loop keeps only the recurrent half.
    gates = F.linear(embeddings, weights.w_ih, weights.b_ih)
    for j in range(embeddings.shape[1]):
        state = _gru_from_gates(weights, gates[:, j], state)
        states.append(state)
    return torch.stack(states, dim=1)


def _gru_from_gates(weights: HeadWeights, gates: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    recurrent = F.linear(state, weights.w_hh, weights.b_hh)
    (xr, xz, xn), (hr, hz, hn) = gates.chunk(3, -1), recurrent.chunk(3, -1)
    update = torch.sigmoid(xz + hz)
    fresh = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return fresh + update * (state - fresh)


def corrections(weights: HeadWeights, z: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """``SiLU(W1 [z ; s])``: ``[..., H]`` and ``[..., G]`` -> ``[..., R]``."""
    return F.silu(F.linear(torch.cat([z, states.to(z.dtype)], dim=-1), weights.w1))


def block_loss(
    weights: HeadWeights,
    z: torch.Tensor,
    tokens: torch.Tensor,
    labelled: torch.Tensor,
    *,
    embedding: torch.Tensor,
    lm_head: torch.Tensor,
    pure_draft_prefix_len: int,
    base_weight: float,
    gamma: float,
    method: str = "tf",
    candidates: Candidates = FULL,
    teacher: torch.Tensor | None = None,
    distill: float = 0.0,
) -> BlockLoss:
    """The loss of N blocks.

    Args:
        z: ``[N, S, H]``, hidden state of each proposal (``shift_label`` applied).
        tokens: int64 ``[N, S + 1]``, the true x0..xS.
        labelled: int64 ``[n]``, the proposals with a label, counted through the N blocks of S.
        embedding, lm_head: ``[V, H]``, the target's, frozen.
        base_weight: lambda.
        method: ``tf``: the GRU reads the true tokens; ``ttt``: it reads the drafter's own argmax after x0.
        candidates: columns of the softmax.
        teacher: ``[N, S, H]``, the target's last hidden state (after its norm) where it wrote each label.
        distill: share of the teacher's distribution in each cross entropy.
    """
    proposals = z.shape[1]
    per_position = position_weights(proposals, gamma, z.device)
    if method == "tf":
        inputs = F.embedding(tokens[:, :-1], embedding).to(z.dtype)
        correction = corrections(weights, z, teacher_forced_states(weights, inputs))
    else:
        correction = _own_corrections(weights, z, tokens[:, 0], embedding, lm_head, pure_draft_prefix_len, candidates)
    kept = torch.arange(proposals, device=z.device) >= pure_draft_prefix_len
    correction = correction * kept[:, None].to(correction.dtype)
    row_weight = per_position.repeat(len(z))[labelled]
    labels = candidates.columns(tokens[:, 1:].flatten()[labelled])
    sums = _rows_loss(
        z.flatten(0, 1).index_select(0, labelled),
        correction.flatten(0, 1).index_select(0, labelled),
        labels,
        row_weight,
        teacher.flatten(0, 1).index_select(0, labelled) if teacher is not None and distill else None,
        head=candidates.rows(lm_head),
        w2=candidates.rows(weights.w2),
        offset=candidates.offset,
        base_weight=base_weight,
        distill=distill,
        has_head=pure_draft_prefix_len < proposals,
    )
    total, final, base, correct = sums
    return BlockLoss(total, final, base, row_weight.sum(), correct, labelled.new_full((), len(labelled)))


def _rows_loss(z, correction, labels, row_weight, teacher, **columns):
    together = max(1, CHUNK_LOGITS // len(columns["head"]))
    if len(z) <= together:
        return _chunk(z, correction, labels, row_weight, teacher, **columns)
    rows = [t.split(together) for t in (z, correction, labels, row_weight)]
    rows.append([None] * len(rows[0]) if teacher is None else teacher.split(together))
    parts = [checkpoint(partial(_chunk, **columns), *some, use_reentrant=False) for some in zip(*rows, strict=True)]
    return tuple(sum(column) for column in zip(*parts, strict=True))


def _chunk(z, correction, labels, row_weight, teacher, *, head, w2, offset, base_weight, distill, has_head):
    """(total, final, base, correct) of some rows."""
    base_logits = F.linear(z.to(head.dtype), head).float()
    if offset is not None:
        base_logits = base_logits + offset
    logits = base_logits + F.linear(correction, w2.to(correction.dtype)).float() if has_head else base_logits
    wanted = labels if teacher is None else _wanted(labels, teacher, head, offset, distill)
    # Without gradient where lambda makes the term vanish: a full-width softmax less in the backward pass.
    final = _weighted(logits, wanted, row_weight, need_gradient=base_weight < 1 or not has_head)
    base = _weighted(base_logits, wanted, row_weight, need_gradient=base_weight > 0) if has_head else final
    total = (1 - base_weight) * final + base_weight * base
    return total, final.detach(), base.detach(), (logits.detach().argmax(-1) == labels).sum()


@torch.no_grad()
def _wanted(labels, teacher, head, offset, distill: float) -> torch.Tensor:
    """``distill`` of the target's distribution over the columns, the rest on the label: ``[rows, columns]``."""
    logits = F.linear(teacher.to(head.dtype), head).float()
    wanted = torch.softmax(logits if offset is None else logits + offset, -1).mul_(distill)
    return wanted.scatter_add_(1, labels[:, None], wanted.new_full((len(labels), 1), 1 - distill))


def _weighted(logits: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor, need_gradient: bool) -> torch.Tensor:
    """Weighted sum of the cross entropies against labels ``[rows]`` or distributions ``[rows, columns]``."""
    with torch.set_grad_enabled(need_gradient and torch.is_grad_enabled()):
        return (F.cross_entropy(logits, wanted, reduction="none") * weight).sum()


def _own_corrections(weights, z, bonus, embedding, lm_head, prefix, candidates: Candidates) -> torch.Tensor:
    """Corrections along the drafter's own greedy path (training-time test); the choice itself has no gradient."""
    head, w2 = candidates.rows(lm_head), candidates.rows(weights.w2)
    state = z.new_zeros(z.shape[0], weights.w_hh.shape[1])
    previous, found = bonus, []
    for j in range(z.shape[1]):
        state = gru_step(weights, F.embedding(previous, embedding).to(z.dtype), state)
        found.append(corrections(weights, z[:, j], state))
        with torch.no_grad():
            logits = F.linear(z[:, j].to(head.dtype), head)
            if j >= prefix:
                logits = logits + F.linear(found[-1], w2.to(found[-1].dtype))
            column = logits.argmax(-1)
            previous = column if candidates.ids is None else candidates.ids[column]
    return torch.stack(found, dim=1)
