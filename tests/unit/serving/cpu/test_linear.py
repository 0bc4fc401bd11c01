"""Packed weights of the CPU platform against products in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sglang  # noqa: F401  (SGLang resolves its platform at import, and that imports the module under test)
import torch
from sglang.srt.layers.quantization.unquant import UnquantizedEmbeddingMethod, UnquantizedLinearMethod
from sglang.srt.models.dflash import DFlashAttention, DFlashDraftModel
from torch import nn

from domino_sglang.serving.cpu.linear import PackedHeadMethod, PackedLinearMethod, can_pack, pack_linear_layers

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def layer(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    module = nn.Linear(columns, rows, bias=False, dtype=dtype)
    module.weight.requires_grad_(False)
    return module


def expected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    product = x.double() @ weight.double().t()
    return product if bias is None else product + bias.double()


def assert_product(actual, x, weight, bias=None):
    exact = expected(x, weight, bias)
    assert actual.dtype == x.dtype and actual.shape == exact.shape
    scale = exact.abs().max() if exact.numel() else 1.0
    torch.testing.assert_close(actual.double() / scale, exact / scale, rtol=0, atol=TOLERANCE[x.dtype])


# bfloat16 needs AVX-512, which test_a_dtype_without_kernels_runs_as_before does without.
@pytest.mark.parametrize("dtype", [dtype for dtype in TOLERANCE if can_pack(dtype)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 96), (6, 96), (8, 6, 96), (300, 96), (0, 96)])
def test_products_of_every_shape(dtype, with_bias, shape):
    module, method = layer(40, 96, dtype), PackedLinearMethod()
    x = torch.randn(shape).to(dtype)
    bias = torch.randn(40).to(dtype) if with_bias else None
    assert_product(method.apply(module, x, bias), x, module.weight, bias)


def test_a_slice_of_a_wider_tensor():
    module, method = layer(24, 64), PackedLinearMethod()
    x = torch.randn(6, 200)[:, 70:134]
    assert_product(method.apply(module, x), x, module.weight)


def test_new_weights_are_multiplied_at_once():
    """As SGLang writes them when it updates a server's weights: into the tensor, or by a new tensor."""
    module, method = layer(24, 64), PackedLinearMethod()
    x = torch.randn(6, 64)
    method.apply(module, x)
    with torch.inference_mode():
        module.weight.copy_(torch.randn(24, 64))
        assert_product(method.apply(module, x), x, module.weight)
    module.weight.data = torch.randn(24, 64)
    assert_product(method.apply(module, x), x, module.weight)


def load(parameter: nn.Parameter) -> None:
    """As SGLang's loaders write a parameter: behind its back."""
    parameter.data.copy_(torch.randn(parameter.shape))


@pytest.mark.parametrize("method", [PackedLinearMethod(), PackedHeadMethod()])
def test_weights_that_a_loader_writes_are_multiplied_once_it_is_done(method):
    module = layer(24, 64)
    x = torch.randn(6, 64)
    method.apply(module, x)
    load(module.weight)
    method.process_weights_after_loading(module)
    assert_product(method.apply(module, x), x, module.weight)


@torch.inference_mode()
def test_a_weight_made_in_inference_mode_is_never_stale():
    module, method = layer(24, 64), PackedLinearMethod()
    x = torch.randn(6, 64)
    method.apply(module, x)
    module.weight.copy_(torch.randn(24, 64))
    assert_product(method.apply(module, x), x, module.weight)


class Model(nn.Module):
    """An SGLang model in small: a layer, a layer with a method of its own, and an LM head tied to the embedding."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.plain, self.quantized = layer(16, 32, dtype), layer(16, 32, dtype)
        self.embed_tokens = nn.Embedding(50, 32, dtype=dtype)
        self.lm_head = self.embed_tokens
        self.plain.quant_method = UnquantizedLinearMethod()
        self.quantized.quant_method = self.own_method = SimpleNamespace()
        self.embed_tokens.quant_method = UnquantizedEmbeddingMethod()


def test_a_model_keeps_its_weights_and_its_quantised_layers():
    model = Model()
    pack_linear_layers(model)
    assert type(model.plain.quant_method) is PackedLinearMethod
    assert model.quantized.quant_method is model.own_method
    x, ids = torch.randn(6, 32), torch.tensor([3, 49])
    head = model.lm_head.quant_method
    assert type(head) is PackedHeadMethod
    assert_product(head.apply(model.lm_head, x).detach(), x, model.lm_head.weight)
    assert torch.equal(head.embedding(model.embed_tokens, ids), model.embed_tokens.weight[ids])


@pytest.mark.parametrize(("bias", "v_scale"), [(False, None), (True, 0.5)])
def test_a_drafters_context_projections_equal_upstreams(bias, v_scale):
    attention, drafter = (cls.__new__(cls) for cls in (DFlashAttention, DFlashDraftModel))
    for module in (attention, drafter):
        nn.Module.__init__(module)
    attention.q_size, attention.kv_size, attention.v_scale = 48, 16, v_scale
    attention.qkv_proj = nn.Linear(32, 80, bias=bias).requires_grad_(False)
    attention.qkv_proj.quant_method = UnquantizedLinearMethod()
    drafter.attention, drafter.fc = attention, nn.Linear(160, 32, bias=bias).requires_grad_(False)
    features, hidden = torch.randn(7, 160), torch.randn(7, 32)
    plain = drafter.fc(features), *attention.kv_proj_only(hidden)
    pack_linear_layers(drafter)
    assert "kv_proj_only" in vars(attention) and "forward" in vars(drafter.fc)
    torch.testing.assert_close((drafter.fc(features), *attention.kv_proj_only(hidden)), plain)
    attention.qkv_proj.weight.copy_(torch.randn(80, 32))
    torch.testing.assert_close(attention.kv_proj_only(hidden), DFlashAttention.kv_proj_only(attention, hidden))
    load(attention.qkv_proj.weight)
    load(drafter.fc.weight)
    attention.qkv_proj.quant_method.process_weights_after_loading(attention.qkv_proj)
    torch.testing.assert_close(attention.kv_proj_only(hidden), DFlashAttention.kv_proj_only(attention, hidden))
    torch.testing.assert_close(drafter.fc(features), nn.Linear.forward(drafter.fc, features))


def test_an_untied_embedding_is_not_packed():
    model = Model()
    model.lm_head = layer(50, 32)
    model.lm_head.quant_method = UnquantizedEmbeddingMethod()
    pack_linear_layers(model)
    assert type(model.embed_tokens.quant_method) is UnquantizedEmbeddingMethod
    assert type(model.lm_head.quant_method) is PackedHeadMethod


def test_a_head_that_sglang_casts_up_is_left_to_it():
    model = Model()
    model.logits_processor = SimpleNamespace(use_fp32_lm_head=True)
    pack_linear_layers(model)
    assert type(model.plain.quant_method) is PackedLinearMethod
    assert type(model.lm_head.quant_method) is UnquantizedEmbeddingMethod


def test_a_dtype_without_kernels_runs_as_before(monkeypatch):
    def refuse(*_args):
        raise RuntimeError("mkldnn_reorder_linear_weight: fp16 path needs the cpu support avx512_fp16")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    assert not can_pack(torch.float16)
    model = Model(torch.float16)
    pack_linear_layers(model)
    assert type(model.plain.quant_method) is UnquantizedLinearMethod


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_dtypes_that_are_never_packed(dtype):
    assert not can_pack(dtype)
