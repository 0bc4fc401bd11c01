"""The Domino head in plain PyTorch: a GRU over the drafted tokens and a low-rank correction of the base logits.

This is the oracle of every test and the CPU path; ``domino_kernels`` computes the same function on a GPU.
Source: arXiv 2605.29707, section 3 (``logits_j = l_j + W2 SiLU(W1 [z_j ; s_{j-1}])``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from domino_sglang.core.random_numbers import STREAM_PROPOSAL, counter_key, exponential

# What a checkpoint's tensors of the head begin with.
HEAD_PREFIXES = ("prefix_gru.", "embed_proj.")


class DominoHead(nn.Module):
    """Weights of the head, under the names the public checkpoints use.

    Args:
        hidden_size: H.
        vocab_size: V.
        gru_hidden_dim: G.
        emb_dim: R, rank of the correction.
        gru_bias: public checkpoints have none; biases are legal.
    """

    def __init__(self, *, hidden_size: int, vocab_size: int, gru_hidden_dim: int, emb_dim: int, gru_bias: bool = False):
        super().__init__()
        self.prefix_gru = nn.GRU(hidden_size, gru_hidden_dim, batch_first=True, bias=gru_bias)
        self.embed_proj = nn.Sequential(
            nn.Linear(hidden_size + gru_hidden_dim, emb_dim, bias=False),
            nn.SiLU(),
            nn.Linear(emb_dim, vocab_size, bias=False),
        )

    def weights(self) -> HeadWeights:
        return HeadWeights.from_modules(self.prefix_gru, self.embed_proj)


@dataclass(frozen=True)
class HeadWeights:
    """The head's tensors, all of one dtype and device.

    Attributes:
        w_ih: ``[3G, H]``, gate order r, z, n.
        w_hh: ``[3G, G]``.
        w1: ``[R, H + G]``; columns 0..H-1 act on z, the rest on the GRU state.
        w2: ``[V, R]``, or a rank's rows of it.
        b_ih, b_hh: ``[3G]`` or None.
    """

    w_ih: torch.Tensor
    w_hh: torch.Tensor
    w1: torch.Tensor
    w2: torch.Tensor
    b_ih: torch.Tensor | None = None
    b_hh: torch.Tensor | None = None

    @classmethod
    def from_modules(cls, prefix_gru: nn.GRU, embed_proj: nn.Sequential) -> HeadWeights:
        gru = dict(prefix_gru.named_parameters())
        return cls(
            w_ih=gru["weight_ih_l0"],
            w_hh=gru["weight_hh_l0"],
            w1=embed_proj.get_parameter("0.weight"),
            w2=embed_proj.get_parameter("2.weight"),
            b_ih=gru.get("bias_ih_l0"),
            b_hh=gru.get("bias_hh_l0"),
        )


@dataclass(frozen=True)
class DraftSampling:
    """How each request draws its proposals.

    Attributes:
        temperature: float32 ``[B]``; 0 means greedy.
        seed: int64 ``[B]``.
        position: int64 ``[B]``, position of the bonus token: the counter of the random numbers.
    """

    temperature: torch.Tensor
    seed: torch.Tensor
    position: torch.Tensor


@dataclass(frozen=True)
class Draft:
    """What one draft step proposes.

    Attributes:
        tokens: int64 ``[B, S]``.
        log_q: float32 ``[B, S]``, log-probability of each token under the draft distribution
            ``q_j = softmax(logits_j / temperature)``; greedy rows use temperature 1. NaN where nobody asked for it.
        logsumexp: float32 ``[B, S]`` of ``logits_j / temperature`` (1 for greedy rows), or NaN likewise.
        correction: ``[B, S, R]``, ``c_j = SiLU(W1 [z_j ; s_{j-1}])``, zero for proposals 1..pure_draft_prefix_len;
            with the base logits it gives back any row of q (:func:`corrected_logits`).
    """

    tokens: torch.Tensor
    log_q: torch.Tensor
    logsumexp: torch.Tensor
    correction: torch.Tensor


@dataclass(frozen=True)
class VocabShard:
    """The columns of the vocabulary that this rank scans.

    Attributes:
        start: token id of the rank's first column.
        all_gather: ``[...] -> [ranks, ...]``, ranks in ascending order of their columns; None when this rank holds the
            whole vocabulary.
    """

    start: int = 0
    all_gather: Callable[[torch.Tensor], torch.Tensor] | None = None


WHOLE_VOCABULARY = VocabShard()


def gru_step(weights: HeadWeights, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """One GRU cell in PyTorch's gate order: ``x [B, H]``, ``state [B, G]`` -> ``[B, G]``."""
    return torch.ops.aten.gru_cell(x, state, weights.w_ih, weights.w_hh, weights.b_ih, weights.b_hh)


def corrected_logits(base_logits: torch.Tensor, correction: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """``l + W2 c``, accumulated in float32: ``[B, V]`` and ``[B, R]`` -> ``[B, V]``."""
    if w2.dtype != torch.float32 and w2.is_cuda:
        return base_logits.float() + torch.mm(correction, w2.t(), out_dtype=torch.float32)
    return base_logits.float() + F.linear(correction.float(), w2.float())


def rollout(
    weights: HeadWeights,
    *,
    z: torch.Tensor,
    base_logits: torch.Tensor,
    bonus_tokens: torch.Tensor,
    embedding: torch.Tensor | Callable[[torch.Tensor], torch.Tensor],
    pure_draft_prefix_len: int,
    sampling: DraftSampling | None = None,
    shard: VocabShard = WHOLE_VOCABULARY,
    tokens_only: bool = False,
) -> Draft:
    """Draft S proposals for B requests, one after the other, over the full vocabulary.

    Args:
        z: ``[B, S, H]``, hidden state of each proposal (the caller has applied ``shift_label``).
        base_logits: ``[B, S, V]``.
        bonus_tokens: int64 ``[B]``.
        embedding: the target's: a table ``[V, H]``, or a function from token ids ``[B]`` to rows ``[B, H]``.
        pure_draft_prefix_len: proposals up to this number take the base logits as they are.
        sampling: None drafts every request greedily.
        shard: which columns ``base_logits`` and ``weights.w2`` hold, under tensor parallelism.
        tokens_only: leave out ``log_q`` and ``logsumexp``, which greedy verification never reads, and a pass over the
            vocabulary for each proposal with them.

    Ties go to the lowest token id, as ``torch.argmax`` does.
    """
    batch, proposals, hidden = z.shape
    rank = weights.w1.shape[0]
    # One product: of a strided batch PyTorch makes as many as there are requests, each reading the weights anew.
    z_part = F.linear(z.flatten(0, 1), weights.w1[:, :hidden]).view(batch, proposals, rank)
    w1_state = weights.w1[:, hidden:]
    state = z.new_zeros(batch, weights.w_hh.shape[1])
    correction = z.new_zeros(batch, proposals, rank)
    tokens = bonus_tokens.new_empty(batch, proposals)
    log_q = torch.empty(batch, proposals, dtype=torch.float32, device=z.device)
    logsumexp = torch.empty_like(log_q)
    previous = bonus_tokens
    for j in range(proposals):
        read = embedding[previous] if isinstance(embedding, torch.Tensor) else embedding(previous)
        state = gru_step(weights, read.to(z.dtype), state)
        if j < pure_draft_prefix_len:
            logits = base_logits[:, j].float()
        else:
            correction[:, j] = F.silu(z_part[:, j] + F.linear(state, w1_state))
            logits = corrected_logits(base_logits[:, j], correction[:, j], weights.w2)
        tokens[:, j], log_q[:, j], logsumexp[:, j] = choose(logits, j, sampling, shard, tokens_only)
        previous = tokens[:, j]
    return Draft(tokens, log_q, logsumexp, correction)


def choose(
    logits: torch.Tensor,
    index: int,
    sampling: DraftSampling | None,
    shard: VocabShard = WHOLE_VOCABULARY,
    tokens_only: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token, log q(token) and logsumexp of proposal ``index`` (0-based) from float32 logits ``[B, V]``.

    ``tokens_only`` gives NaN for the last two.
    """
    score = logits
    if sampling is not None:
        greedy = sampling.temperature <= 0
        score = logits = logits / torch.where(greedy, 1.0, sampling.temperature)[:, None]
        if not bool(greedy.all()):
            noise = proposal_noise(sampling, index, logits.shape[-1], shard.start)
            score = logits - torch.where(greedy[:, None], 0.0, noise)
    token = score.argmax(-1, keepdim=True)
    logsumexp = torch.full_like(logits[:, 0], torch.nan) if tokens_only else logits.logsumexp(-1)
    if shard.all_gather is None:
        return (token + shard.start).squeeze(-1), logits.gather(-1, token).squeeze(-1) - logsumexp, logsumexp
    return _best_of_ranks(score.gather(-1, token), token + shard.start, logits.gather(-1, token), logsumexp, shard)


def _best_of_ranks(score, token, logit, logsumexp, shard):
    # Token ids are whole numbers below 2**53, so they travel exactly among doubles, in one exchange.
    mine = torch.cat([score.double(), token.double(), logit.double(), logsumexp[:, None].double()], -1)
    ranks = shard.all_gather(mine)
    # The first of equal scores wins, and lower ranks hold lower ids, as torch.argmax over all columns would have it.
    winner = ranks[..., 0].argmax(0)
    best = ranks[winner, torch.arange(mine.shape[0], device=mine.device)]
    total = ranks[..., 3].logsumexp(0)
    return best[:, 1].long(), (best[:, 2] - total).float(), total.float()


def proposal_noise(sampling: DraftSampling, index: int, vocab_size: int, start: int = 0) -> torch.Tensor:
    """``log(Exp(1))`` draws ``[B, vocab_size]``, float32: ``argmax(logits - noise)`` samples from softmax(logits).

    ``start`` is the token id of the first column: a shard draws the numbers its tokens have in the whole.
    """
    low, high = counter_key(sampling.seed, sampling.position, index, STREAM_PROPOSAL)
    element = torch.arange(start, start + vocab_size, device=sampling.seed.device)
    return exponential((low[:, None], high[:, None]), element).log()
