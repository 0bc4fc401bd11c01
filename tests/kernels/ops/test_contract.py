"""The inner product: tensor cores and multiply-sum."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from domino_kernels.device import INTERPRETED
from domino_kernels.ops.contract import contract

TOLERANCE = 1e-5


@triton.jit
def product_kernel(
    w_ptr,
    x_ptr,
    out_ptr,
    N: tl.constexpr,
    K: tl.constexpr,
    M: tl.constexpr,
    USE_DOT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    n, k, m = tl.arange(0, N), tl.arange(0, K), tl.arange(0, M)
    w, x = tl.load(w_ptr + n[:, None] * K + k[None, :]), tl.load(x_ptr + k[:, None] * M + m[None, :])
    out = out_ptr + n[:, None] * M + m[None, :]
    tl.store(out, contract(w, x, tl.load(out), USE_DOT, UPCAST))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "depth", "columns", "use_dot"), [(16, 32, 16, True), (8, 64, 2, False)])
def test_it_adds_the_product(device, dtype, rows, depth, columns, use_dot):
    w, x = torch.randn(rows, depth).to(device, dtype), torch.randn(depth, columns).to(device, dtype)
    before = torch.randn(rows, columns).to(device)
    out = before.clone()
    product_kernel[(1,)](w, x, out, rows, depth, columns, use_dot, INTERPRETED)
    torch.testing.assert_close(out, before + w.float() @ x.float(), atol=TOLERANCE, rtol=TOLERANCE)
