"""The bonus token of rejection sampling: the kernel against PyTorch (``core.verify``), on the same random numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from domino_kernels import BonusDraw
from domino_sglang.core.head import Draft, DraftSampling
from domino_sglang.core.verify import DraftRows
from domino_sglang.core.verify.bonus import draw_bonus, residual

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Case:
    """A verified batch in which every request wants a bonus token."""

    p: torch.Tensor
    tokens: torch.Tensor
    base: torch.Tensor
    w2: torch.Tensor
    correction: torch.Tensor
    logsumexp: torch.Tensor
    sampling: DraftSampling
    index: torch.Tensor
    scale: torch.Tensor | None = None

    def kernels(self) -> list[int]:
        draw = BonusDraw(self.w2)
        block = (self.tokens, self.base, self.correction, self.logsumexp, self.sampling)
        return draw(self.p, *block, self.index, self.scale).tolist()

    def oracles(self) -> list[int]:
        draft = Draft(self.tokens, torch.zeros_like(self.logsumexp), self.logsumexp, self.correction.float())
        rows = DraftRows(self.base.float(), self.w2.float(), draft, self.sampling)
        mass = residual(self.p, self.tokens, rows, self.sampling, self.index, self.scale)
        return draw_bonus(mass, self.p, self.index, self.sampling).tolist()


def make_case(
    device: str,
    batch: int,
    *,
    proposals: int = 3,
    vocab: int = 300,
    drafted_vocab: int | None = None,
    rank: int = 8,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """Every third request drafted greedily; every place of the block is somebody's first rejection."""
    generator = torch.Generator().manual_seed(seed)
    width = drafted_vocab or vocab

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator)

    base = (2 * normal(batch, proposals, width)).to(dtype)
    w2, correction = normal(width, rank).to(dtype), (0.3 * normal(batch, proposals, rank)).to(dtype)
    temperature = torch.tensor([1.0, 0.7, 0.0])[torch.arange(batch) % 3]
    logits = base.float() + correction.float() @ w2.float().T
    logits = logits / torch.where(temperature > 0, temperature, 1.0)[:, None, None]
    tokens = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(batch, proposals)
    wanted = normal(batch, proposals + 1, vocab)
    wanted[:, :proposals, : min(width, vocab)] += logits[..., :vocab]
    p = wanted.softmax(-1)
    p[p < 0.3 / vocab] = 0  # as top-p leaves it
    p /= p.sum(-1, keepdim=True)
    sampling = DraftSampling(
        temperature.to(device),
        torch.randint(-(2**62), 2**62, (batch,), generator=generator).to(device),
        torch.randint(0, 4000, (batch,), generator=generator).to(device),
    )
    parts = (p, tokens, base, w2, correction, logits.logsumexp(-1))
    index = torch.arange(batch) * 2 % (proposals + 1)
    return Case(*(part.to(device) for part in parts), sampling, index.to(device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 2, 3, 17, 40])
def test_tokens_are_the_oracles(device, batch, dtype):
    for seed in range(3):
        case = make_case(device, batch, dtype=dtype, seed=seed)
        assert case.kernels() == case.oracles()


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab": 1, "proposals": 1},
        {"vocab": 300, "drafted_vocab": 260},
        {"vocab": 260, "drafted_vocab": 300},
        {"vocab": 1025, "rank": 3, "proposals": 7},
        {"vocab": 130, "rank": 300},
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [2, 5])
def test_any_size(device, batch, sizes):
    case = make_case(device, batch, **sizes)
    assert case.kernels() == case.oracles()


@pytest.mark.parametrize("batch", [2, 9])
def test_a_scaled_residual(device, batch):
    case = make_case(device, batch)
    case = replace(case, scale=torch.linspace(0.3, 1.0, batch, device=device))
    assert case.kernels() == case.oracles()


@pytest.mark.parametrize("batch", [2, 6])
def test_strides_of_a_longer_buffer(device, batch):
    case = make_case(device, batch)
    wide = torch.full((batch + 2, 5, 320), NAN, device=device)
    wide[:batch, :3, :300] = case.base
    longer = torch.zeros(batch, 6, 320, device=device)
    longer[:, :4, :300] = case.p
    moved = replace(case, base=wide[:batch, :3, :300], p=longer[:, :4, :300])
    assert moved.kernels() == case.oracles()


@pytest.mark.parametrize("batch", [2, 6])
def test_a_residual_without_mass_draws_from_p(device, batch):
    case = make_case(device, batch)
    # q is everywhere above p, so that nothing is left where q was drafted from.
    case = replace(case, logsumexp=case.logsumexp - 40, index=torch.zeros_like(case.index))
    said = case.kernels()
    assert said == case.oracles()
    assert all(case.p[i, 0, token] > 0 for i, token in enumerate(said))


@pytest.mark.parametrize("batch", [2, 6])
def test_a_point_mass_never_comes_back(device, batch):
    case = make_case(device, batch)
    greedy = replace(case.sampling, temperature=torch.zeros(batch, device=device))
    case = replace(case, sampling=greedy, index=torch.ones_like(case.index))
    case.p[:, 1].zero_()
    case.p[:, 1, 7] = 0.4
    case.p.scatter_(2, case.tokens[:, 1:2, None].expand(-1, 4, -1), 0.6)
    said = case.kernels()
    assert said == case.oracles()
    assert all(token != drafted for token, drafted in zip(said, case.tokens[:, 1].tolist(), strict=True))


@pytest.mark.parametrize("batch", [2, 6])
def test_numbers_that_are_none_give_a_legal_token(device, batch):
    case = make_case(device, batch)
    case.p[0] = NAN
    case.p[1, :, ::2] = INF
    case.base[1, :, 1::3] = NAN
    case.base[1, :, 2::3] = INF
    case.logsumexp[1] = NAN
    said = case.kernels()
    assert said == case.oracles()
    assert said[0] == 0


def test_frequencies_are_the_residuals(device):
    # One request many times over, each with its own seed.
    one = make_case(device, 1, vocab=11, proposals=2)
    draws = 3000

    def many(x: torch.Tensor) -> torch.Tensor:
        return x.repeat(draws, *[1] * (x.ndim - 1))

    seeds = torch.arange(draws, device=device) * 7919
    sampling = DraftSampling(many(one.sampling.temperature), seeds, many(one.sampling.position))
    parts = (many(x) for x in (one.p, one.tokens, one.base))
    case = Case(*parts, one.w2, many(one.correction), many(one.logsumexp), sampling, many(one.index))
    q = (one.base[0, 0] + one.correction[0, 0] @ one.w2.T).softmax(-1)
    expected = (one.p[0, 0] - q).clamp(min=0)
    expected = expected / expected.sum()
    found = torch.bincount(torch.tensor(case.kernels(), device=device), minlength=11) / draws
    assert 0.5 * (found - expected).abs().sum() < 0.04
    assert (found[expected == 0] == 0).all()


def test_bad_arguments_are_named(device):
    case = make_case(device, 2)
    with pytest.raises(ValueError, match="p has shape"):
        replace(case, p=case.p[:, :3]).kernels()
    with pytest.raises(ValueError, match=r"correction is torch\.bfloat16, expected torch\.float32"):
        replace(case, correction=case.correction.bfloat16()).kernels()
    with pytest.raises(ValueError, match="contiguous"):
        replace(case, logsumexp=case.logsumexp.T.contiguous().T).kernels()
