"""Decoder layers of the draft backbone: Qwen3's, with keys and values from the block and from the context features.

Source: DFlash; upstream ``sglang.srt.models.dflash.DFlashAttention`` and ``DFlashDecoderLayer``. What differs from a
Qwen3 layer: queries come from the block alone; the context's keys and values are projections of the features as they
are, without the layer's input norm; inside the block attention is not causal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm, rotate_half

from domino_sglang.hf.configuration import DominoDraftConfig

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""``[B, kv heads, tokens, head_dim]`` twice: keys after norm and rotation, and values."""

Attend = Callable[[torch.Tensor, KeyValue, KeyValue], torch.Tensor]
"""``attend(query [B, heads, Q, d], context, block) -> [B, heads, Q, d]``, scaled by ``d ** -0.5``."""

Rotation = tuple[torch.Tensor, torch.Tensor]
"""cos and sin, ``[B, tokens, head_dim]``."""


class DraftAttention(nn.Module):
    """Queries of the block over the context and the block itself."""

    def __init__(self, config: DominoDraftConfig):
        super().__init__()
        heads, dim = config.num_attention_heads, config.head_dim
        kv_heads = config.num_key_value_heads or heads
        self.head_dim = dim
        self.q_proj = nn.Linear(config.hidden_size, heads * dim, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * dim, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * dim, bias=config.attention_bias)
        self.o_proj = nn.Linear(heads * dim, config.hidden_size, bias=config.attention_bias)
        self.q_norm = Qwen3RMSNorm(dim, eps=config.rms_norm_eps)
        self.k_norm = Qwen3RMSNorm(dim, eps=config.rms_norm_eps)

    def key_value(self, hidden: torch.Tensor, rotation: Rotation) -> KeyValue:
        """``hidden [B, T, H]`` -> keys and values of these tokens."""
        shape = (*hidden.shape[:-1], -1, self.head_dim)
        key = self.k_norm(self.k_proj(hidden).view(shape)).transpose(1, 2)
        value = self.v_proj(hidden).view(shape).transpose(1, 2)
        return rotate(key, rotation), value

    def forward(self, hidden: torch.Tensor, rotation: Rotation, context: KeyValue, attend: Attend) -> torch.Tensor:
        shape = (*hidden.shape[:-1], -1, self.head_dim)
        query = rotate(self.q_norm(self.q_proj(hidden).view(shape)).transpose(1, 2), rotation)
        mixed = attend(query, context, self.key_value(hidden, rotation))
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class DraftLayer(nn.Module):
    """Pre-norm attention and SwiGLU, names as in Qwen3."""

    def __init__(self, config: DominoDraftConfig):
        super().__init__()
        self.self_attn = DraftAttention(config)
        self.mlp = Qwen3MLP(config)
        self.input_layernorm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden: torch.Tensor, rotation: Rotation, context: KeyValue, attend: Attend) -> torch.Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotation, context, attend)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """Rotary embedding of ``x [B, heads, T, d]`` at the positions of ``rotation``."""
    cos, sin = (part.unsqueeze(1) for part in rotation)
    return x * cos + rotate_half(x) * sin


def attend_all(
    query: torch.Tensor, context: KeyValue, block: KeyValue, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Every query sees the whole context and the whole block (one block at decode time), or what ``mask`` lets it see.

    Args:
        mask: bool, to ``[B, heads, queries, context + block]``, True where a query sees.
    """
    key, value = (torch.cat(pair, dim=2) for pair in zip(context, block, strict=True))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=query.shape[1] != key.shape[1])
