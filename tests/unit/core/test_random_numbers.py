"""Counter-based random numbers: uniform, independent along every axis of the counter, and the same every time."""

from __future__ import annotations

import numpy
import pytest
import torch
from scipy import stats

from domino_sglang.core.random_numbers import (
    STREAM_ACCEPT,
    STREAM_BONUS,
    STREAM_PROPOSAL,
    counter_key,
    exponential,
    mix32,
    uniform,
)

N = 200_000
ZERO = torch.zeros(1, dtype=torch.int64)


def row(*, seed=1, position=0, index=0, stream=STREAM_ACCEPT, element=0):
    """N uniforms along whichever argument is a tensor."""
    seed, position, index, element = (torch.as_tensor(x) for x in (seed, position, index, element))
    seed, position, index, element = torch.broadcast_tensors(seed, position, index, element)
    return uniform(counter_key(seed, position, index, stream), element)


along = torch.arange(N)
AXES = {
    "seed": dict(seed=along),
    "large seed": dict(seed=along + 2**62),
    "negative seed": dict(seed=-1 - along),
    "high word of the seed": dict(seed=along << 32),
    "position": dict(position=along),
    "index": dict(index=along),
    "element": dict(element=along),
}


@pytest.mark.parametrize("axis", AXES)
def test_uniform_along(axis):
    u = row(**AXES[axis])
    assert u.dtype == torch.float32 and float(u.min()) > 0 and float(u.max()) <= 1
    assert stats.kstest(u.double().numpy(), "uniform").pvalue > 1e-4
    count = torch.histc(u, 256, 0, 1).numpy()
    assert stats.chisquare(count).pvalue > 1e-4


def test_uniforms_are_those_of_unsigned_32_bit_arithmetic():
    """Bit for bit, against NumPy's own uint32, for keys and elements with the highest bit set and without."""

    def mix(x):
        x = (x ^ (x >> numpy.uint32(16))) * numpy.uint32(0x7FEB352D)
        x = (x ^ (x >> numpy.uint32(15))) * numpy.uint32(0x846CA68B)
        return x ^ (x >> numpy.uint32(16))

    low, high = counter_key(torch.arange(-32, 32) * 10**15, torch.arange(64), 3, STREAM_PROPOSAL)
    ours = uniform((low[:, None], high[:, None]), torch.arange(5000))
    words = [word.numpy().astype(numpy.uint32)[:, None] for word in (low, high)]
    bits = mix(mix(numpy.arange(5000, dtype=numpy.uint32) ^ words[0]) + words[1])
    assert (bits >= 2**31).any() and (bits < 2**31).any()
    expected = (bits.astype(numpy.float32) + numpy.float32(0.5)) * numpy.float32(2.0**-32)
    assert torch.equal(ours, torch.from_numpy(expected))


@pytest.mark.parametrize("axis", AXES)
def test_neighbours_are_independent(axis):
    u = row(**AXES[axis]).double().numpy()
    for lag in (1, 2, 15, 16, 256):
        table = numpy.histogram2d(u[:-lag], u[lag:], bins=16, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(table.ravel()).pvalue > 1e-4, f"lag {lag}"


@pytest.mark.parametrize(
    "one, other",
    [
        (dict(stream=STREAM_PROPOSAL), dict(stream=STREAM_ACCEPT)),
        (dict(stream=STREAM_ACCEPT), dict(stream=STREAM_BONUS)),
        (dict(stream=STREAM_PROPOSAL), dict(stream=STREAM_BONUS)),
        (dict(index=0), dict(index=1)),
        (dict(index=3, stream=STREAM_BONUS), dict(index=4, stream=STREAM_PROPOSAL)),
        (dict(element=0), dict(element=1)),
    ],
)
@pytest.mark.parametrize("axis", ["seed", "position"])
def test_streams_and_proposals_are_independent(axis, one, other):
    a, b = (row(**AXES[axis], **which).double().numpy() for which in (one, other))
    table = numpy.histogram2d(a, b, bins=16, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-4


def test_adjacent_seeds_and_positions_do_not_trade_places():
    """seed + 1 at position p and seed at position p + 1 are different numbers."""
    assert not torch.equal(row(seed=along + 1, position=5), row(seed=along, position=6))
    grid = row(seed=torch.arange(300)[:, None], position=torch.arange(300))
    correlation = numpy.corrcoef(grid[1:, :-1].flatten(), grid[:-1, 1:].flatten())[0, 1]
    assert abs(correlation) < 0.02


def test_keys_do_not_collide():
    seed, position, index = torch.meshgrid(torch.arange(50), torch.arange(200), torch.arange(16), indexing="ij")
    keys = []
    for stream in (STREAM_PROPOSAL, STREAM_ACCEPT, STREAM_BONUS):
        low, high = counter_key(seed.flatten(), position.flatten(), index.flatten(), stream)
        keys.append(low << 32 | high)
    assert len(torch.cat(keys).unique()) == 50 * 200 * 16 * 3


def test_mix32_is_a_bijection_within_32_bits():
    mixed = mix32(torch.arange(2**20))
    assert len(mixed.unique()) == 2**20 and int(mixed.min()) >= 0 and int(mixed.max()) < 2**32


def test_the_same_number_every_time_and_in_every_shape():
    seed, position = torch.tensor([-(2**63), 2**63 - 1, 7]), torch.tensor([0, 131071, 2**31])
    whole = uniform(counter_key(seed[:, None], position[:, None], torch.arange(4), STREAM_BONUS), ZERO)
    for b in range(3):
        for j in range(4):
            alone = uniform(counter_key(seed[b : b + 1], position[b : b + 1], j, STREAM_BONUS), ZERO)
            assert torch.equal(alone[0], whole[b, j])


def test_known_values():
    """Pinned, because seeded texts and the Triton kernels rest on them."""
    low, high = counter_key(torch.tensor([1234]), torch.tensor([56]), 7, STREAM_PROPOSAL)
    u = uniform((low, high), torch.arange(3))
    assert (int(low), int(high)) == (2261468929, 4002745166)
    assert torch.allclose(u, torch.tensor([0.07565953, 0.47511071, 0.1166826]), rtol=0, atol=1e-7)


def test_exponential_law():
    e = exponential(counter_key(along, ZERO, 0, STREAM_PROPOSAL), ZERO)
    assert float(e.min()) > 0 and bool(e.isfinite().all())
    assert stats.kstest(e.double().numpy(), "expon").pvalue > 1e-4


def test_exponential_stays_finite_at_the_ends():
    bits = torch.tensor([0.5 * 2.0**-32, 1.0])
    ends = -torch.log1p(-bits.clamp(max=1.0 - 2.0**-24))
    assert bool(ends.isfinite().all()) and float(ends[0]) > 0 and float(ends[1]) > 16


@pytest.mark.parametrize("vocab", [8, 50])
def test_the_race_draws_from_the_weights(vocab):
    weights = torch.randn(vocab, generator=torch.Generator().manual_seed(vocab)).mul(2).softmax(0)
    low, high = counter_key(torch.arange(100_000), ZERO, 3, STREAM_BONUS)
    noise = exponential((low[:, None], high[:, None]), torch.arange(vocab))
    for token in ((noise / weights).argmin(-1), (weights.log() - noise.log()).argmax(-1)):
        count = torch.bincount(token, minlength=vocab).numpy()
        expected = weights.double() / weights.double().sum() * 100_000
        assert stats.chisquare(count, expected.numpy()).pvalue > 1e-4
