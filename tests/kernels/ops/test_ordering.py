"""Keys whose maximum is torch's argmax."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domino_kernels.ops.ordering import order_of, pack_key, pack_reference, token_of

NAN, INF = float("nan"), float("inf")
VALUES = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e-45, -1e-45, 3e38, -3e38, 2.0]


@triton.jit
def key_kernel(score_ptr, key_ptr, token_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    key = pack_key(order_of(tl.load(score_ptr + i, mask=i < n, other=0.0)), i)
    tl.store(key_ptr + i, key, mask=i < n)
    tl.store(token_ptr + i, token_of(key), mask=i < n)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=st.lists(st.sampled_from(VALUES) | st.floats(width=32), min_size=1, max_size=16))
def test_the_largest_key_is_torchs_argmax(device, scores):
    score = torch.tensor(scores, device=device)
    key, token = torch.empty(2, len(scores), dtype=torch.int64, device=device)
    key_kernel[(1,)](score, key, token, len(scores), BLOCK=16)
    assert key.argmax() == score.argmax()
    assert token.tolist() == list(range(len(scores)))
    assert torch.equal(key, pack_reference(score, torch.arange(len(scores), device=device)))
