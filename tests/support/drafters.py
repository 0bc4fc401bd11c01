"""Drafter checkpoints made for a test: random weights in the public format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from domino_sglang.core.config import DominoConfig

# A drafter's configuration, and what concerns it of its target's, with sizes to multiply by hand.
SMALL: dict[str, Any] = {
    "architectures": ["DominoDraftModel"],
    "hidden_size": 32,
    "vocab_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "block_size": 8,
    "num_target_layers": 6,
    "dflash_config": {
        "mask_token_id": 49,
        "target_layer_ids": [0, 2, 4],
        "projector_type": "domino",
        "pure_draft_prefix_len": 1,
        "emb_dim": 6,
        "gru_hidden_dim": 10,
        "shift_label": True,
    },
}
SMALL_TARGET = {"hidden_size": 32, "vocab_size": 50, "num_hidden_layers": 6}


def drafter_config(target: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A small drafter's ``config.json`` for a target's ``config.json``; ``changes`` go where each field lives."""
    layers = target["num_hidden_layers"]
    dflash = {
        "mask_token_id": 0,
        "target_layer_ids": sorted({0, layers // 3, 2 * layers // 3, layers - 2}),
        "projector_type": "domino",
        "pure_draft_prefix_len": 1,
        "emb_dim": 8,
        "gru_hidden_dim": 16,
        "shift_label": True,
    }
    config = {
        "architectures": ["DominoDraftModel"],
        "model_type": "qwen3",
        "hidden_size": target["hidden_size"],
        "vocab_size": target["vocab_size"],
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": target.get("max_position_embeddings", 2048),
        "attention_bias": False,
        "tie_word_embeddings": False,
        "block_size": 8,
        "num_target_layers": layers,
        "torch_dtype": "float32",
        "dflash_config": dflash,
    }
    for name, value in changes.items():
        (dflash if name in dflash else config)[name] = value
    return config


def tensor_shapes(config: DominoConfig, gru_bias: bool = False) -> dict[str, tuple[int, ...]]:
    """Shapes of every tensor, under bare names, as ``shared`` checkpoints hold them."""
    h, heads, kv, d = config.H, config.num_attention_heads, config.num_key_value_heads, config.head_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(config.num_hidden_layers):
        layer = f"layers.{i}."
        shapes |= {
            layer + "self_attn.q_proj.weight": (heads * d, h),
            layer + "self_attn.k_proj.weight": (kv * d, h),
            layer + "self_attn.v_proj.weight": (kv * d, h),
            layer + "self_attn.o_proj.weight": (h, heads * d),
            layer + "self_attn.q_norm.weight": (d,),
            layer + "self_attn.k_norm.weight": (d,),
            layer + "mlp.gate_proj.weight": (config.intermediate_size, h),
            layer + "mlp.up_proj.weight": (config.intermediate_size, h),
            layer + "mlp.down_proj.weight": (h, config.intermediate_size),
            layer + "input_layernorm.weight": (h,),
            layer + "post_attention_layernorm.weight": (h,),
        }
    shapes |= {
        "norm.weight": (h,),
        "fc.weight": (h, config.K * h),
        "hidden_norm.weight": (h,),
        "prefix_gru.weight_ih_l0": (3 * config.G, h),
        "prefix_gru.weight_hh_l0": (3 * config.G, config.G),
        "embed_proj.0.weight": (config.R, h + config.G),
        "embed_proj.2.weight": (config.V, config.R),
    }
    if gru_bias:
        shapes |= {"prefix_gru.bias_ih_l0": (3 * config.G,), "prefix_gru.bias_hh_l0": (3 * config.G,)}
    return shapes


def random_tensors(config: DominoConfig, gru_bias: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights, scaled so that every part of the drafter moves its proposals."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in tensor_shapes(config, gru_bias).items():
        if name.endswith("norm.weight"):
            tensors[name] = 1 + 0.1 * torch.randn(shape, generator=generator)
        else:
            tensors[name] = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
    tensors["embed_proj.2.weight"] *= 20
    return tensors


# Tensors that early SpecForge saves and its native export name otherwise, by the beginnings of their public names.
OTHER_NAMES = {
    "prefix_gru.": "logit_head.prefix_gru.",
    "embed_proj.": "logit_head.embed_proj.",
    "fc.": "encoder.fc.",
    "hidden_norm.": "encoder.output_norm_enc.",
}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for public, other in names.items():
        if name.startswith(public):
            return other + name.removeprefix(public)
    return name


def write_drafter(
    folder: Path,
    target: dict[str, Any] | str | Path,
    *,
    gru_bias: bool = False,
    prefix: str = "",
    names: Mapping[str, str] | None = None,
    left_out: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Write a drafter for a target (its configuration, or its folder) and return the folder.

    ``names`` are other beginnings of tensor names, by the public ones; ``left_out`` are fields of ``dflash_config``
    that the configuration does not say.
    """
    if not isinstance(target, dict):
        target = json.loads((Path(target) / "config.json").read_text())
    raw = drafter_config(target, **changes)
    raw["torch_dtype"] = str(dtype).removeprefix("torch.")
    folder.mkdir(parents=True, exist_ok=True)
    said = {**raw, "dflash_config": {k: v for k, v in raw["dflash_config"].items() if k not in left_out}}
    (folder / "config.json").write_text(json.dumps(said, indent=2))
    tensors = random_tensors(DominoConfig.from_dict(raw), gru_bias, seed)
    tensors = {prefix + _renamed(name, names or {}): tensor.to(dtype) for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    index: dict[str, Any] = {"metadata": {}, "weight_map": {}}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, folder / file)
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
