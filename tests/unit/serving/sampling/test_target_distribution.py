"""The target's distribution after top-k, top-p and min-p, against SGLang's own PyTorch sampler."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.layers.sampler import top_k_top_p_min_p_sampling_from_probs_torch

from domino_sglang.serving.sampling.target_distribution import keep_with_sort, target_probabilities

VOCAB = 40
DISTRIBUTIONS = {
    "top-k": ([1, 2, 5, 20, VOCAB + 10], [1.0] * 5, [0.0] * 5),
    "top-p": ([VOCAB] * 5, [0.05, 0.3, 0.7, 0.95, 1.0], [0.0] * 5),
    "min-p": ([VOCAB] * 5, [1.0] * 5, [0.0, 0.05, 0.2, 0.6, 1.0]),
    "all": ([1 << 30, 3, 12, 30, 6], [0.9, 0.8, 0.5, 1.0, 0.99], [0.1, 0.0, 0.3, 0.02, 0.2]),
}


def upstream_distribution(probs, top_k, top_p, min_p) -> torch.Tensor:
    """What SGLang's sampler draws from, normalised."""
    filtered = top_k_top_p_min_p_sampling_from_probs_torch(
        probs.clone(), top_k, top_p, min_p, True, None, torch.zeros(len(probs)), return_filtered_probs=True
    )
    tensors = [part for part in filtered if isinstance(part, torch.Tensor) and part.shape == probs.shape]
    weights = next(part for part in tensors if part.is_floating_point())
    order = next(part for part in tensors if not part.is_floating_point())
    kept = torch.zeros_like(probs).scatter(-1, order.long(), weights)
    return kept / kept.sum(-1, keepdim=True)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
def test_equals_sglangs_sampler(name, spread):
    top_k, top_p, min_p = (torch.tensor(values) for values in DISTRIBUTIONS[name])
    logits = spread * torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(3))
    probs = logits.softmax(-1)
    ours = keep_with_sort(probs.clone(), top_k=top_k, top_p=top_p, min_p=min_p)
    torch.testing.assert_close(ours, upstream_distribution(probs, top_k, top_p, min_p), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.sum(-1), torch.ones(5))


def info(batch: int, **changes) -> SimpleNamespace:
    fields = {
        "temperatures": torch.ones(batch, 1),
        "top_ks": torch.full((batch,), 1 << 30),
        "top_ps": torch.ones(batch),
        "min_ps": torch.zeros(batch),
        "need_top_k_sampling": False,
        "need_top_p_sampling": False,
        "need_min_p_sampling": False,
    }
    return SimpleNamespace(**(fields | changes))


def test_temperature_alone():
    logits = torch.randn(2, 3, VOCAB, generator=torch.Generator().manual_seed(1))
    distribution = target_probabilities(logits, info(2, temperatures=torch.tensor([[0.5], [2.0]])))
    torch.testing.assert_close(distribution[0], (logits[0] / 0.5).softmax(-1))
    torch.testing.assert_close(distribution[1], (logits[1] / 2.0).softmax(-1))


def test_every_position_of_a_request_takes_its_parameters(monkeypatch):
    monkeypatch.setattr("domino_sglang.serving.sampling.target_distribution._renorm_kernels", lambda: False)
    logits = torch.randn(3, 4, VOCAB, generator=torch.Generator().manual_seed(2))
    distribution = target_probabilities(logits, info(3, top_ks=torch.tensor([1, 5, VOCAB]), need_top_k_sampling=True))
    assert (distribution > 0).sum(-1).tolist() == [[1] * 4, [5] * 4, [VOCAB] * 4]


def test_masked_tokens_have_no_probability(monkeypatch):
    monkeypatch.setattr("domino_sglang.serving.sampling.target_distribution._renorm_kernels", lambda: False)
    logits = torch.zeros(1, 2, VOCAB)
    logits[..., 1:] = -torch.inf
    distribution = target_probabilities(logits, info(1, top_ps=torch.tensor([0.9]), need_top_p_sampling=True))
    assert distribution[..., 0].tolist() == [[1.0, 1.0]]
    assert (distribution[..., 1:] == 0).all()


# Many tokens, most of them hopeless: a running sum in float32 passes 1 long before the last.
WIDE = 20_000


def neighbours() -> list[dict]:
    """Sampling of three requests, of which the first never filters."""
    return [
        {},
        {"top_ks": torch.tensor([1 << 30, 1, 1 << 30]), "need_top_k_sampling": True},
        {"top_ps": torch.tensor([1.0, 0.5, 0.9]), "need_top_p_sampling": True},
        {"min_ps": torch.tensor([0.0, 0.2, 0.0]), "need_min_p_sampling": True},
    ]


@pytest.mark.parametrize("kernels", [False, True])
def test_neighbours_do_not_touch_an_unfiltered_request(monkeypatch, kernels):
    use_kernels(monkeypatch, kernels)
    logits = 4 * torch.randn(3, 2, WIDE, generator=torch.Generator().manual_seed(4))
    distributions = [target_probabilities(logits, info(3, **changes))[0] for changes in neighbours()]
    assert (distributions[0] > 0).all()
    assert all(torch.equal(distribution, distributions[0]) for distribution in distributions)


OWN = {
    "top-k": {"top_ks": 7, "need_top_k_sampling": True},
    "top-p": {"top_ps": 0.8, "need_top_p_sampling": True},
    "top-k and top-p": {"top_ks": 12, "top_ps": 0.6, "need_top_k_sampling": True, "need_top_p_sampling": True},
    "min-p": {"min_ps": 0.1, "need_min_p_sampling": True},
    "all": {"top_ks": 12, "top_ps": 0.6, "min_ps": 0.1}
    | dict.fromkeys(("need_top_k_sampling", "need_top_p_sampling", "need_min_p_sampling"), True),
}


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_neighbours_do_not_touch_a_filtered_request(monkeypatch, name, kernels):
    use_kernels(monkeypatch, kernels)
    own = {key: value if isinstance(value, bool) else torch.tensor([value]) for key, value in OWN[name].items()}
    logits = 2 * torch.randn(2, 2, VOCAB, generator=torch.Generator().manual_seed(5))
    alone = target_probabilities(logits[:1], info(1, **own))[0]
    beside = info(2, **dict.fromkeys(("need_top_k_sampling", "need_top_p_sampling", "need_min_p_sampling"), True))
    for field, other in (("top_ks", 3), ("top_ps", 0.4), ("min_ps", 0.3)):
        first = own.get(field, getattr(info(1), field))
        setattr(beside, field, torch.cat([first, first.new_tensor([other])]))
    assert torch.equal(target_probabilities(logits, beside)[0], alone)


def use_kernels(monkeypatch, kernels: bool) -> None:
    """Take the path of SGLang's renormalisation kernels, with stand-ins where there is no GPU to run them."""

    def top_k_renorm_prob(probs, top_k):
        return keep_with_sort(probs, top_k=top_k, top_p=torch.ones_like(top_k, dtype=torch.float32), min_p=None)

    def top_p_renorm_prob(probs, top_p):
        return keep_with_sort(probs, top_k=torch.full_like(top_p, 1 << 30), top_p=top_p, min_p=None)

    stand_in = SimpleNamespace(top_k_renorm_prob=top_k_renorm_prob, top_p_renorm_prob=top_p_renorm_prob)
    monkeypatch.setitem(sys.modules, "sgl_kernel", stand_in)
    monkeypatch.setattr("domino_sglang.serving.sampling.target_distribution._renorm_kernels", lambda: kernels)
