"""The noise is SGLang's own, to the last bit, and Gumbel-distributed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from scipy import stats

from domino_sglang.core.shared_noise import SharedNoise, gumbel, murmur_hash32

SEEDS = [0, 1, 42, 2**31, 2**32 + 7, 2**63 - 1]
POSITIONS = [0, 1, 77, 2**20, 5, 131071]

SGLANG = """
import torch
from sglang.kernels.ops.sampling import murmur_hash as m
seeds, positions = torch.tensor({seeds}), torch.tensor({positions})
hashed = torch.empty(len(seeds), 300, dtype=torch.uint32)
m.murmur_hash32_kernel[(len(seeds), 1)](seeds, positions, torch.arange(300), hashed, len(seeds), 300, BLOCK_SIZE=1024)
print(hashed.long().tolist())
"""


def test_the_hash_is_sglangs_kernel_in_the_interpreter():
    reply = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SGLANG.format(seeds=SEEDS, positions=POSITIONS)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert reply.returncode == 0, reply.stderr
    theirs = torch.tensor(json.loads(reply.stdout.splitlines()[-1]))
    ours = murmur_hash32(torch.tensor(SEEDS)[:, None], torch.tensor(POSITIONS)[:, None], torch.arange(300))
    assert torch.equal(ours, theirs)


def choose(noise: SharedNoise, logits: torch.Tensor, ahead: torch.Tensor | int) -> torch.Tensor:
    return (logits + noise.scaled(ahead, torch.arange(logits.shape[-1]))).argmax(-1)


def test_the_choice_is_that_of_sglangs_sampler(monkeypatch):
    from sglang.srt.layers import sampler

    def hashed(seed, positions, columns):
        return murmur_hash32(seed.to(torch.int64)[:, None], positions[:, None], columns).to(torch.uint32)

    monkeypatch.setattr(sampler, "murmur_hash32", hashed)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: False)
    seeds, positions = torch.tensor(SEEDS), torch.tensor(POSITIONS)
    logits = 3 * torch.randn(len(SEEDS), 500, generator=torch.Generator().manual_seed(0))
    temperature = torch.tensor([1.0, 0.7, 1.3, 0.2, 2.0, 1.0])
    draw = getattr(sampler.multinomial_with_seed, "_torchdynamo_orig_callable", sampler.multinomial_with_seed)
    theirs = draw((logits / temperature[:, None]).log_softmax(-1), seeds, positions)
    ours = choose(SharedNoise(temperature, seeds, positions), logits[:, None], 0)
    assert ours.flatten().tolist() == theirs.flatten().tolist()


def test_gumbel_noise_is_gumbels():
    seeds = torch.arange(100)[:, None, None]
    noise = gumbel(seeds, torch.arange(20)[:, None], torch.arange(50)).flatten()
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-4
    assert float(noise.min()) > -3.2 and float(noise.max()) < 22.3


def test_positions_count_from_the_last_committed_token():
    noise = SharedNoise(torch.tensor([1.0, 0.5]), torch.tensor([3, 4]), torch.tensor([10, 20]))
    logits = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(1))
    ahead = torch.tensor([[0, 1, 2], [2, 0, 1]])
    together = choose(noise, logits, ahead)
    for b in range(2):
        for j in range(3):
            alone = SharedNoise(*(x[b : b + 1] for x in (noise.temperature, noise.seed, noise.position + ahead[:, j])))
            assert int(choose(alone, logits[b : b + 1, j : j + 1], 0)) == int(together[b, j])


def test_a_greedy_request_has_no_noise():
    noise = SharedNoise(torch.tensor([0.0, 1.0]), torch.tensor([3, 3]), torch.tensor([10, 10]))
    logits = torch.randn(1, 64, 40, generator=torch.Generator().manual_seed(1)).expand(2, -1, -1)
    chosen = choose(noise, logits, torch.arange(64).expand(2, -1))
    assert torch.equal(chosen[0], logits[0].argmax(-1))
    assert not torch.equal(chosen[1], chosen[0])
