"""Random heads and inputs, the fp32 oracle, and a comparison that knows a near-tie from a wrong token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from domino_kernels import DominoRollout, Proposals
from domino_sglang.core.head import DominoHead, Draft, DraftSampling, HeadWeights, proposal_noise, rollout

TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Absolute, on logits of order 1: the head's own rounding in that dtype, against an oracle in float32."""


@dataclass(frozen=True)
class Case:
    """Everything one rollout needs."""

    weights: HeadWeights
    z: torch.Tensor
    base: torch.Tensor
    bonus: torch.Tensor
    embedding: torch.Tensor
    prefix: int
    sampling: DraftSampling | None
    options: dict[str, Any] = field(default_factory=dict)

    def built(self, **options) -> DominoRollout:
        settings = dict(
            embedding=self.embedding,
            max_batch=self.z.shape[0],
            num_proposals=self.z.shape[1],
            pure_draft_prefix_len=self.prefix,
        )
        return DominoRollout(self.weights, **(settings | self.options | options))

    def run(self, **options) -> Proposals:
        return self.built(**options)(self.z, self.base, self.bonus, self.sampling)

    def oracle(self) -> Draft:
        names = ("w_ih", "w_hh", "w1", "w2", "b_ih", "b_hh")
        tensors = {name: getattr(self.weights, name) for name in names}
        weights = HeadWeights(**{name: None if t is None else t.float() for name, t in tensors.items()})
        with torch.no_grad():
            return rollout(
                weights,
                z=self.z.float(),
                base_logits=self.base.float(),
                bonus_tokens=self.bonus,
                embedding=self.embedding.float(),
                pure_draft_prefix_len=self.prefix,
                sampling=self.sampling,
            )

    def scores(self, oracle: Draft, j: int) -> torch.Tensor:
        """What proposal ``j``'s argmax ran over, float32 ``[B, V]``."""
        logits = self.base[:, j].float()
        if j >= self.prefix:
            logits = logits + oracle.correction[:, j].float() @ self.weights.w2.float().t()
        if self.sampling is None:
            return logits
        temperature = self.sampling.temperature[:, None]
        noise = proposal_noise(self.sampling, j, logits.shape[-1])
        return torch.where(temperature > 0, logits / temperature.clamp(min=1e-6) - noise, logits)

    def with_(self, **changes) -> Case:
        return replace(self, **changes)


def make_case(
    *,
    batch: int = 3,
    proposals: int = 3,
    hidden: int = 20,
    vocab: int = 301,
    units: int = 12,
    rank: int = 8,
    prefix: int = 1,
    sampled: bool = False,
    bias: bool = False,
    dtype: torch.dtype = torch.float32,
    base_dtype: torch.dtype | None = None,
    device: str = "cpu",
    seed: int = 0,
    **options,
) -> Case:
    """Draws a case on the CPU, so that it is the same on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = DominoHead(hidden_size=hidden, vocab_size=vocab, gru_hidden_dim=units, emb_dim=rank, gru_bias=bias)
        with torch.no_grad():
            # Corrections as large as the base logits, or the head would change no token.
            head.embed_proj[2].weight.normal_(std=2.0 / rank**0.5)
            head.embed_proj[0].weight.normal_(std=2.0 / (hidden + units) ** 0.5)
        head = head.to(device=device, dtype=dtype).requires_grad_(False)
        z, embedding = torch.randn(batch, proposals, hidden), torch.randn(vocab, hidden)
        base = torch.randn(batch, proposals, vocab)
        bonus = torch.randint(vocab, (batch,))
        temperature = torch.tensor([0.0, 0.7, 1.3, 2.0])[torch.arange(batch) % 4]
        seeds, positions = torch.randint(-(2**62), 2**62, (batch,)), torch.randint(0, 5000, (batch,))
    sampling = DraftSampling(temperature.to(device), seeds.to(device), positions.to(device)) if sampled else None
    return Case(
        head.weights(),
        z.to(device, dtype),
        base.to(device, base_dtype or dtype),
        bonus.to(device),
        embedding.to(device, dtype),
        prefix,
        sampling,
        options,
    )


def check(case: Case, got: Proposals | None = None, *, tolerance: float | None = None) -> None:
    """``got`` (or a fresh run) is what the oracle drafts.

    A token may differ where the oracle's two best scores are closer than the dtype's rounding; that row is not
    followed further, because its GRU has read something else.
    """
    got = case.run() if got is None else got
    want = case.oracle()
    tolerance = tolerance or TOLERANCE[case.weights.w2.dtype]
    alive = torch.ones_like(case.bonus, dtype=torch.bool)
    for j in range(case.z.shape[1]):
        torch.testing.assert_close(
            got.correction[:, j][alive].float(), want.correction[:, j][alive], **_within(tolerance)
        )
        torch.testing.assert_close(got.logsumexp[:, j][alive], want.logsumexp[:, j][alive], **_within(tolerance))
        differs = alive & (got.tokens[:, j] != want.tokens[:, j])
        if differs.any():
            scores = case.scores(want, j)[differs]
            mine = scores.gather(1, got.tokens[differs, j][:, None]).squeeze(1)
            gap = scores.amax(1) - mine
            assert (gap <= 2 * tolerance).all(), f"proposal {j}: tokens {gap.max():.3g} below the best score"
            alive &= ~differs
        torch.testing.assert_close(got.log_q[:, j][alive], want.log_q[:, j][alive], **_within(tolerance))
    assert alive.any() or case.weights.w2.dtype != torch.float32, "every row met a near-tie: the case tests nothing"


def _within(tolerance: float) -> dict[str, Any]:
    return {"atol": tolerance, "rtol": tolerance, "equal_nan": True}
