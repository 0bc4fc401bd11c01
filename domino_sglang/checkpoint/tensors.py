"""The tensors a Domino drafter must store, with the configuration fields that decide each shape."""

from __future__ import annotations

import re
from dataclasses import dataclass

from domino_sglang.core.config import DominoConfig


@dataclass(frozen=True)
class ExpectedTensor:
    """Shape of one tensor, the fields of ``config.json`` it follows from, and the part of the drafter it belongs to."""

    shape: tuple[int, ...]
    fields: str
    part: str


PARTS = ("backbone", "context projection", "prefix GRU", "correction")


# Other names of the same tensors: early SpecForge saves, and its native export.
ALIASES = {
    "logit_head.prefix_gru.": "prefix_gru.",
    "logit_head.embed_proj.": "embed_proj.",
    "encoder.fc.": "fc.",
    "encoder.output_norm_enc.": "hidden_norm.",
}


def bare_name(stored: str) -> str:
    """The public name of a stored tensor: without the ``model.`` some exports add, and for what is an alias of it."""
    name = stored.removeprefix("model.")
    for alias, public in ALIASES.items():
        if name.startswith(alias):
            return public + name.removeprefix(alias)
    return name


def expected_tensors(config: DominoConfig, *, gru_bias: bool = False) -> dict[str, ExpectedTensor]:
    """Bare name -> what must be stored in the layout that SpecForge writes and the public Domino checkpoints have."""
    table: dict[str, ExpectedTensor] = {}
    for i in range(config.num_hidden_layers):
        for name, (shape, fields) in _layer_tensors(config).items():
            table[f"layers.{i}.{name}"] = ExpectedTensor(shape, fields, "backbone")
    H, G, R, V, K = config.H, config.G, config.R, config.V, config.K
    table["norm.weight"] = ExpectedTensor((H,), "hidden_size", "backbone")
    table["fc.weight"] = ExpectedTensor((H, K * H), "hidden_size, target_layer_ids", "context projection")
    table["hidden_norm.weight"] = ExpectedTensor((H,), "hidden_size", "context projection")
    table["prefix_gru.weight_ih_l0"] = ExpectedTensor((3 * G, H), "gru_hidden_dim, hidden_size", "prefix GRU")
    table["prefix_gru.weight_hh_l0"] = ExpectedTensor((3 * G, G), "gru_hidden_dim", "prefix GRU")
    if gru_bias:
        for name in GRU_BIASES:
            table[name] = ExpectedTensor((3 * G,), "gru_hidden_dim", "prefix GRU")
    table["embed_proj.0.weight"] = ExpectedTensor((R, H + G), "emb_dim, hidden_size, gru_hidden_dim", "correction")
    table["embed_proj.2.weight"] = ExpectedTensor((V, R), "vocab_size, emb_dim", "correction")
    return table


GRU_BIASES = ("prefix_gru.bias_ih_l0", "prefix_gru.bias_hh_l0")

# Copies of the target's weights: some exports carry them, nobody reads them (nor does upstream's DFlashDraftModel).
TARGET_COPIES = ("embed_tokens.weight", "lm_head.weight")

# Buffers that older Transformers versions saved; every loader computes them itself.
ROTARY_CACHE = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached|cos_sin_cache)")


def is_rotary_cache(name: str) -> bool:
    return ROTARY_CACHE.fullmatch(name) is not None


def _layer_tensors(config: DominoConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    H, D, I = config.H, config.head_dim, config.intermediate_size  # noqa: E741
    q, kv = config.num_attention_heads * D, config.num_key_value_heads * D
    q_fields, kv_fields = "num_attention_heads, head_dim", "num_key_value_heads, head_dim"
    table = {
        "self_attn.q_proj.weight": ((q, H), f"{q_fields}, hidden_size"),
        "self_attn.k_proj.weight": ((kv, H), f"{kv_fields}, hidden_size"),
        "self_attn.v_proj.weight": ((kv, H), f"{kv_fields}, hidden_size"),
        "self_attn.o_proj.weight": ((H, q), f"hidden_size, {q_fields}"),
        "self_attn.q_norm.weight": ((D,), "head_dim"),
        "self_attn.k_norm.weight": ((D,), "head_dim"),
        "mlp.gate_proj.weight": ((I, H), "intermediate_size, hidden_size"),
        "mlp.up_proj.weight": ((I, H), "intermediate_size, hidden_size"),
        "mlp.down_proj.weight": ((H, I), "hidden_size, intermediate_size"),
        "input_layernorm.weight": ((H,), "hidden_size"),
        "post_attention_layernorm.weight": ((H,), "hidden_size"),
    }
    if config.attention_bias:
        table["self_attn.q_proj.bias"] = ((q,), q_fields)
        table["self_attn.k_proj.bias"] = ((kv,), kv_fields)
        table["self_attn.v_proj.bias"] = ((kv,), kv_fields)
        table["self_attn.o_proj.bias"] = ((H,), "hidden_size")
    return table
