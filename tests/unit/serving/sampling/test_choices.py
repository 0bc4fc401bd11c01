"""The ``n`` choices of a seeded request: each has a seed of its own, the first the user's."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from domino_sglang.serving.sampling import choices


def sent_seeds(monkeypatch, algorithm: str | None, seed: int | None, n: int) -> list[int | None]:
    """Seeds as they leave when SGLang sends ``n`` copies of a request that share their sampling parameters."""
    monkeypatch.setattr(choices, "get_spec", lambda: SimpleNamespace(speculative_algorithm=algorithm))
    seeds: list[int | None] = []

    async def send(_manager, request):
        seeds.append(request.sampling_params.sampling_seed)
        request.sampling_params = b"packed"

    async def send_all():
        params = SimpleNamespace(sampling_seed=seed)
        for _ in range(n):
            await choices.reseed_next_choice(send, None, SimpleNamespace(sampling_params=params))

    asyncio.run(send_all())
    return seeds


def test_each_choice_has_its_own_seed(monkeypatch):
    seeds = sent_seeds(monkeypatch, "DOMINO", 7, 64)
    assert seeds[0] == 7
    assert len(set(seeds)) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Seeds that users take one after the other do not share their choices.
    assert not set(seeds) & set(sent_seeds(monkeypatch, "DOMINO", 8, 64))


@pytest.mark.parametrize(("algorithm", "seed"), [("DOMINO", None), (None, 7), ("DFLASH", 7)])
def test_nothing_else_is_touched(monkeypatch, algorithm, seed):
    assert sent_seeds(monkeypatch, algorithm, seed, 3) == [seed] * 3


def test_requests_without_sampling_parameters_pass(monkeypatch):
    sent = []

    async def send(_manager, request):
        sent.append(request)

    asyncio.run(choices.reseed_next_choice(send, None, SimpleNamespace()))
    assert len(sent) == 1
