"""The inner product every op here is made of: weight rows times activations, accumulated in float32."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def contract(w, x, acc, USE_DOT: tl.constexpr, UPCAST: tl.constexpr):
    """``acc + w @ x`` for ``w [N, K]``, ``x [K, M]``, float32 ``acc [N, M]``.

    Args:
        USE_DOT: tensor cores (``x`` rounded to the weights' dtype), else a multiply-sum in float32 for a few rows.
        UPCAST: float32 operands for the dot: the interpreter's bfloat16 dot is wrong (Triton 3.8).
    """
    if USE_DOT:
        if UPCAST:
            x = x.to(w.dtype)
            acc = tl.dot(w.to(tl.float32), x.to(tl.float32), acc, input_precision="ieee")
        else:
            acc = tl.dot(w, x.to(w.dtype), acc, input_precision="ieee")
    else:
        acc += tl.sum(w.to(tl.float32)[:, :, None] * x.to(tl.float32)[None, :, :], axis=1)
    return acc
