"""Acceptance length on held-out text, without running the target.

The target's greedy response is known, so greedy speculative decoding can be replayed: draft at the current position,
commit the proposals that agree and the bonus token, move on. This is the number ``spec_generate`` would report.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from domino_sglang.hf import DominoDraftModel
from domino_sglang.hf.layers import KeyValue, attend_all
from domino_sglang.training.loop.dataset import Example
from domino_sglang.training.loop.drafter import TargetEnds


@dataclass(frozen=True)
class AcceptanceReport:
    """Means over all verify steps of the replay.

    Attributes:
        length: committed tokens per step, bonus included.
        by_kind: the same for each kind of prompt.
        by_position: share of steps that accept proposal 1, 2, ..., S.
        steps: verify steps replayed.
    """

    length: float
    by_kind: dict[str, float]
    by_position: list[float]
    steps: int


@torch.inference_mode()
def replay(
    drafter: DominoDraftModel,
    ends: TargetEnds,
    examples: Sequence[Example],
    features: Callable[[Sequence[Example]], torch.Tensor],
    *,
    max_new_tokens: int | None = None,
    head: bool = True,
    batch: int = 16,
) -> AcceptanceReport:
    """Replay greedy decoding of ``examples`` (responses drawn at temperature 0).

    Args:
        max_new_tokens: stop each response there; None replays all of it.
        head: False drafts from the base logits alone.
    """
    lengths: dict[str, list[int]] = defaultdict(list)
    accepted_at = torch.zeros(drafter.domino.S)
    for start in range(0, len(examples), batch):
        group = examples[start : start + batch]
        for kind, accepted, committed in _replay_batch(drafter, ends, group, features(group), max_new_tokens, head):
            lengths[kind].append(committed)
            accepted_at[:accepted] += 1
    every = [n for values in lengths.values() for n in values]
    return AcceptanceReport(
        length=sum(every) / max(len(every), 1),
        by_kind={kind: sum(values) / len(values) for kind, values in sorted(lengths.items())},
        by_position=(accepted_at / max(len(every), 1)).tolist(),
        steps=len(every),
    )


def _replay_batch(drafter, ends: TargetEnds, group, features, limit, head):
    """Yields (kind, accepted proposals, committed tokens) of each step."""
    device, block = ends.embedding.device, drafter.domino.block_size
    ids = torch.nn.utils.rnn.pad_sequence([e.ids for e in group], batch_first=True, padding_value=-1).to(device)
    stop = torch.tensor([min(len(e.ids), e.prompt_length + (limit or len(e.ids))) for e in group], device=device)
    features = features.to(device)
    length = features.shape[1]
    context = drafter.context_key_values(features, torch.arange(length, device=device).expand(len(group), -1))
    ids = F.pad(ids, (0, block), value=-1)
    at = torch.tensor([e.prompt_length for e in group], device=device)
    rows = (at < stop - 1).nonzero().squeeze(1)
    while len(rows):
        seen = torch.arange(length, device=device) < at[rows, None]
        mask = F.pad(seen, (0, block), value=True)[:, None, None]
        true = ids[rows[:, None], at[rows, None] + torch.arange(block, device=device)]
        draft = _propose(drafter, ends, true[:, 0], at[rows], [(k[rows], v[rows]) for k, v in context], mask, head)
        accepted = (draft == true[:, 1:]).int().cumprod(1).sum(1)
        committed = torch.minimum(accepted + 1, stop[rows] - 1 - at[rows])
        for row, a, c in zip(rows.tolist(), accepted.tolist(), committed.tolist(), strict=True):
            yield group[row].kind, a, c
        at[rows] += committed
        rows = (at < stop - 1).nonzero().squeeze(1)


def _propose(drafter, ends: TargetEnds, bonus, positions, context: list[KeyValue], mask, head) -> torch.Tensor:
    return drafter.propose(
        bonus,
        positions,
        context,
        embedding=ends.embedding,
        lm_head=ends.lm_head,
        head=head,
        attend=functools.partial(attend_all, mask=mask),
    )[0].tokens
