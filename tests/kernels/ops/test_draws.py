"""Noise inside a kernel: bit for bit PyTorch's words, and their logarithm to a few ulp."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from domino_kernels.ops.random_numbers import counter_key, log_exponential
from domino_sglang.core.head import DraftSampling, proposal_noise

TOLERANCE = 2e-6


@triton.jit
def noise_kernel(seed_ptr, position_ptr, out_ptr, index, vocab, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    v = tl.arange(0, BLOCK)
    low, high = counter_key(tl.load(seed_ptr + row), tl.load(position_ptr + row), index)
    tl.store(out_ptr + row * vocab + v, log_exponential(low, high, v), mask=v < vocab)


@pytest.mark.parametrize("index", [0, 1, 14])
def test_random_numbers_are_the_oracles(device, index):
    seed = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 123456789012345], device=device)
    position = torch.tensor([0, 1, 77, 2**31, 131071, 5], device=device)
    want = proposal_noise(DraftSampling(torch.ones(6, device=device), seed, position), index, 1000)
    got = torch.empty_like(want)
    noise_kernel[(6,)](seed, position, got, index, 1000, BLOCK=1024)
    torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=TOLERANCE)
