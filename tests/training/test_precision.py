"""bfloat16 on a CPU: used where products of it are fast, and replaced in words where they are not."""

import logging

import pytest
import sglang  # noqa: F401  (SGLang resolves its platform at import, and that imports cpu_linear)
import torch

from domino_sglang.serving.cpu.linear import can_pack
from domino_sglang.training.loop import precision


@pytest.mark.parametrize(
    ("asked", "device", "fast", "given"),
    [
        ("bfloat16", "cpu", True, "bfloat16"),
        ("bfloat16", "cpu", False, "float32"),
        ("bfloat16", "cuda", False, "bfloat16"),
        ("float32", "cpu", False, "float32"),
        ("auto", "cpu", False, "auto"),
    ],
)
def test_bfloat16_is_replaced_where_a_cpu_cannot_multiply_it(monkeypatch, caplog, asked, device, fast, given):
    monkeypatch.setattr(precision, "_cpu_multiplies_bfloat16", lambda: fast)
    with caplog.at_level(logging.WARNING):
        assert precision.usable_dtype(asked, device) == given
    assert ("float32" in caplog.text) == (asked != given)


def test_this_cpu_says_what_onednn_does():
    assert precision._cpu_multiplies_bfloat16() == can_pack(torch.bfloat16)
