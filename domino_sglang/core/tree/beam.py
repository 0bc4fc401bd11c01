"""Drafting a tree with the Domino head: a few paths at a time, each with its own GRU state.

All paths of a request share one backbone pass, its base logits and one read of W2; a further path costs a row of the
correction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from domino_sglang.core.head import WHOLE_VOCABULARY, HeadWeights, VocabShard, corrected_logits, gru_step
from domino_sglang.core.shared_noise import SharedNoise
from domino_sglang.core.tree.types import Candidates


def draft_tree(
    weights: HeadWeights,
    *,
    z: torch.Tensor,
    base_logits: torch.Tensor,
    bonus_tokens: torch.Tensor,
    embedding: torch.Tensor | Callable[[torch.Tensor], torch.Tensor],
    pure_draft_prefix_len: int,
    beam: int,
    children: int,
    depth: int | None = None,
    noise: SharedNoise | None = None,
    shard: VocabShard = WHOLE_VOCABULARY,
    head: bool = True,
) -> Candidates:
    """Candidates of B requests: at each depth the ``beam`` likeliest paths get ``children`` children each.

    Args:
        z: ``[B, S, H]``, hidden state of each proposal (the caller has applied ``shift_label``).
        base_logits: ``[B, S, V]``, or this rank's columns of it.
        bonus_tokens: int64 ``[B]``, the roots.
        embedding: the target's: a table ``[V, H]``, or a function from token ids ``[N]`` to rows ``[N, H]``.
        pure_draft_prefix_len: proposals up to this number take the base logits as they are.
        beam: W, paths of a request that are carried on; 1 with one child is a chain, the head's greedy draft.
        children: k of each path.
        depth: of the tree, 1 to S; None is S.
        noise: of sampled requests; None drafts every request greedily.
        shard: which columns ``base_logits`` and ``weights.w2`` hold, under tensor parallelism.
        head: False ranks by the base logits alone.

    Returns:
        M = k + W' k (depth - 1) candidates a request, W' = min(W, k) paths behind the root and W behind them.
    """
    batch, proposals, hidden = z.shape
    depth = proposals if depth is None else depth
    rank = weights.w1.shape[0]
    z_part = F.linear(z.flatten(0, 1), weights.w1[:, :hidden]).view(batch, proposals, rank)
    state = z.new_zeros(batch, 1, weights.w_hh.shape[1])
    tokens, path = bonus_tokens[:, None], torch.zeros(batch, 1, dtype=torch.float32, device=z.device)
    node = torch.full_like(tokens, -1)
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    drafted = 0
    for j in range(depth):
        read = embedding[tokens] if isinstance(embedding, torch.Tensor) else embedding(tokens.flatten())
        width = tokens.shape[1]
        state = gru_step(weights, read.view(batch * width, -1).to(z.dtype), state.flatten(0, 1)).view(batch, width, -1)
        logits = base_logits[:, j, None].float()
        if head and j >= pure_draft_prefix_len:
            correction = F.silu(z_part[:, j, None] + F.linear(state, weights.w1[:, hidden:]))
            rows = logits.expand(batch, width, -1).flatten(0, 1)
            logits = corrected_logits(rows, correction.flatten(0, 1), weights.w2)
        logits = logits.view(batch, -1, base_logits.shape[-1]).expand(batch, width, -1)
        if noise is not None:
            logits = logits + noise.for_drafts(j, shard.start, base_logits.shape[-1])
        log_p, child = _best(logits, children, shard)
        score = (path[:, :, None] + log_p.clamp(max=0)).flatten(1)
        child, parent = child.flatten(1), node.repeat_interleave(child.shape[2], 1)
        found.append((child, parent, score))
        path, kept = score.topk(min(beam, score.shape[1]), dim=1)
        tokens, node = child.gather(1, kept), kept + drafted
        above = kept // log_p.shape[2]
        state = state.gather(1, above[:, :, None].expand(-1, -1, state.shape[2]))
        drafted += score.shape[1]
    depths = [torch.full((level[0].shape[1],), j + 1, device=z.device) for j, level in enumerate(found)]
    tokens, parent, score = (torch.cat(column, 1) for column in zip(*found, strict=True))
    return Candidates(tokens, parent, torch.cat(depths), score)


def _best(logits: torch.Tensor, number: int, shard: VocabShard) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and token id of the best ``number`` of each row ``[B, W, V]``, each ``[B, W, number]``."""
    total = logits.logsumexp(-1, keepdim=True)
    # topk leaves open which of equal scores it takes, and a chain takes the lowest id.
    best, token = logits.max(-1, keepdim=True) if number == 1 else logits.topk(number, -1)
    token = token + shard.start
    if shard.all_gather is None:
        return (best - total).float(), token
    # Token ids are whole numbers below 2**53, so they travel exactly among doubles, in one exchange.
    ranks = shard.all_gather(torch.cat([best.double(), token.double(), total.double()], -1))
    best, token = (part.movedim(0, -2).flatten(-2) for part in (ranks[..., :number], ranks[..., number : 2 * number]))
    order = best.argsort(dim=-1, descending=True, stable=True)[..., :number]
    total = ranks[..., -1].logsumexp(0)[..., None]
    return (best.gather(-1, order) - total).float(), token.gather(-1, order).long()
