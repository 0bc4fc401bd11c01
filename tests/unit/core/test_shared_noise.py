"""The noise is SGLang's own, to the last bit, and Gumbel-distributed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from domino_sglang.core.shared_noise import GUMBEL32_ERROR, SharedNoise, gumbel, gumbel32, hash_bits, murmur_hash32

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


def choose(noise: SharedNoise, logits: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    return noise.choose(logits / noise.temperature[:, None, None], ahead)


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
    ours = choose(
        SharedNoise(temperature, seeds, positions), logits[:, None], torch.zeros(len(seeds), 1, dtype=torch.int64)
    )
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
            assert int(choose(alone, logits[b : b + 1, j : j + 1], torch.zeros(1, 1, dtype=torch.int64))) == int(
                together[b, j]
            )


def test_a_greedy_request_drafts_without_noise():
    noise = SharedNoise(torch.tensor([0.0, 1.0]), torch.tensor([3, 3]), torch.tensor([10, 10]))
    drafted = noise.for_drafts(2, 5, 40)
    assert drafted.shape == (2, 1, 40) and not drafted[0].any()
    exact = gumbel(torch.tensor(3), torch.tensor(12), torch.arange(5, 45))
    torch.testing.assert_close(drafted[1, 0].double(), exact, atol=1e-4, rtol=1e-4)


def test_bits_of_a_whole_vocabulary_are_the_hash():
    seeds, positions = torch.tensor(SEEDS)[:, None], torch.tensor(POSITIONS)[None]
    for first, number in ((0, 300), (49_000, 152)):
        bits = hash_bits(seeds, positions.expand(len(SEEDS), -1), first, number)
        expected = murmur_hash32(seeds[..., None], positions[..., None], torch.arange(first, first + number))
        assert torch.equal(bits.long() & 0xFFFFFFFF, expected)


def test_noise_in_single_precision_is_as_close_as_it_says():
    edges = torch.cat(
        [torch.arange(1, 5000), torch.arange(2**31 - 500, 2**31 + 500), torch.arange(2**32 - 5000, 2**32)]
    )
    spread = torch.arange(1, 2**32, 40_009)
    hashed = torch.cat([edges, spread])
    x = (hashed.double() / 0xFFFFFFFF).log().clamp(max=-(2.0**-32))
    error = (gumbel32(hashed.to(torch.int32)).double() + (-x).log()).abs()
    assert float(error.max()) < GUMBEL32_ERROR
    assert float(error[len(edges) :].median()) < 1e-5
    # Next to nothing, which no score makes up for.
    assert gumbel32(torch.tensor([0], dtype=torch.int32)).item() == -torch.inf


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**62), st.sampled_from([0.01, 0.6, 1.0, 30.0]), st.integers(1, 700))
def test_the_choice_is_the_full_computations(seed, temperature, vocab):
    """Over rows of flat, equal, steep and filtered logits."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    kinds = torch.randn(8, 6, vocab, generator=generator)
    kinds[1] = 0.0
    kinds[2] *= 40
    kinds[3] = kinds[3].round()
    kinds[4, :, 1:] = -torch.inf
    kinds[5] = kinds[5].masked_fill(torch.rand(6, vocab, generator=generator) < 0.7, -torch.inf)
    kinds[6] = -torch.inf
    kinds[7] = 1e6 * kinds[7]
    noise = SharedNoise(torch.full((8,), temperature), torch.arange(8) * 7919 + seed, torch.arange(8) * 31)
    ahead = torch.randint(0, 9, (8, 6), generator=generator)
    scores = kinds / temperature
    g = gumbel(noise.seed[:, None, None], (noise.position[:, None] + ahead)[..., None], torch.arange(vocab))
    assert torch.equal(noise.choose(scores, ahead), (scores + g).argmax(-1))
