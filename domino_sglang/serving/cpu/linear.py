"""Matrix products of a CPU server on weights laid out once for oneDNN.

PyTorch hands float32 products to MKL, which lays the weights out anew in every call, so that a draft block costs more
than a single token. With the weights packed beforehand it costs no more, which is what speculative decoding rests on;
``benchmarks/cpu_linear.py`` measures both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from sglang.srt.layers.quantization.base_config import QuantizeMethodBase
from sglang.srt.layers.quantization.unquant import UnquantizedEmbeddingMethod, UnquantizedLinearMethod
from sglang.srt.models.dflash import DFlashAttention, DFlashDraftModel

logger = logging.getLogger(__name__)

# Rows that oneDNN lays the weights out for: a draft block, or a small batch.
EXPECTED_ROWS = 8


class Loads:
    """How often weights were loaded in this process: loaders write through ``.data``, which no tensor tells."""

    def __init__(self) -> None:
        self.done = 0

    def another(self) -> None:
        self.done += 1


loads = Loads()


class PackedWeight:
    """A weight's copy in oneDNN's layout, laid out again when the weight has changed."""

    def __init__(self) -> None:
        self._of: tuple[int, int, int] | None = None
        self._packed = torch.empty(0)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """``x [..., K]`` times ``weight [N, K]`` transposed, plus ``bias [N]`` -> ``[..., N]``, all of one dtype."""
        if weight.is_inference():  # made in inference mode, it does not tell when it changes
            return F.linear(x, weight, bias)
        now = (loads.done, weight._version, weight.data_ptr())
        if now != self._of:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), EXPECTED_ROWS)
            self._of = now
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")


class PackedLinearMethod(UnquantizedLinearMethod):
    """SGLang's unquantised linear layer on a packed copy of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = PackedWeight()

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return self.packed.linear(x, layer.weight, bias)

    def process_weights_after_loading(self, layer: Any) -> None:
        super().process_weights_after_loading(layer)
        loads.another()


class PackedHeadMethod(UnquantizedEmbeddingMethod):
    """SGLang's unquantised LM head on a packed copy; a tied embedding still reads the plain rows."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = PackedWeight()

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return self.packed.linear(x.to(layer.weight.dtype), layer.weight, bias)

    def process_weights_after_loading(self, layer: Any) -> None:
        super().process_weights_after_loading(layer)
        loads.another()


def pack_linear_layers(model: torch.nn.Module) -> None:
    """Let a loaded model's unquantised layers run on packed weights, where this CPU has them for their dtype."""
    packed_bytes = 0
    # With --enable-fp32-lm-head SGLang casts the plain rows up itself; a method of the head's own would go before that.
    cast_up = getattr(getattr(model, "logits_processor", None), "use_fp32_lm_head", False)
    lm_head = None if cast_up else getattr(model, "lm_head", None)
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        packed: QuantizeMethodBase
        if type(method) is UnquantizedLinearMethod:
            packed = PackedLinearMethod()
        elif type(method) is UnquantizedEmbeddingMethod and module is lm_head:
            packed = PackedHeadMethod()
        else:
            continue
        weight = module.get_parameter("weight")
        if can_pack(weight.dtype):
            setattr(module, "quant_method", packed)  # noqa: B010
            packed_bytes += weight.nbytes
    if isinstance(model, DFlashDraftModel):
        packed_bytes += _pack_context_projections(model)
    logger.info("%s: %.1f MB of weights packed for oneDNN", type(model).__name__, packed_bytes / 1e6)


def _pack_context_projections(drafter: DFlashDraftModel) -> int:
    """What a drafter computes from every committed token, drafting or not: its context feature, and K and V of it.

    Returns:
        Bytes packed.
    """
    packed_bytes = 0
    if type(drafter.fc) is torch.nn.Linear and can_pack(drafter.fc.weight.dtype):
        fc, packed = drafter.fc, PackedWeight()
        setattr(fc, "forward", lambda x: packed.linear(x, fc.weight, fc.bias))  # noqa: B010
        packed_bytes += fc.weight.nbytes
    for module in drafter.modules():
        if isinstance(module, DFlashAttention) and type(module.qkv_proj.quant_method) is PackedLinearMethod:
            setattr(module, "kv_proj_only", _packed_kv_projection(module))  # noqa: B010
            packed_bytes += module.qkv_proj.weight[module.q_size :].nbytes
    return packed_bytes


def _packed_kv_projection(attention: DFlashAttention) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    layer, packed = attention.qkv_proj, PackedWeight()
    rows = slice(attention.q_size, attention.q_size + 2 * attention.kv_size)

    def kv_proj_only(hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bias = None if layer.bias is None else layer.bias[rows]
        k, v = packed.linear(hidden_states, layer.weight[rows], bias).split(attention.kv_size, dim=-1)
        return k, v if attention.v_scale is None else v * attention.v_scale

    return kv_proj_only


def can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this dtype on this CPU."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    try:
        torch.ops.mkldnn._reorder_linear_weight(torch.zeros(16, 16, dtype=dtype), EXPECTED_ROWS)
    except RuntimeError:
        return False
    return True
