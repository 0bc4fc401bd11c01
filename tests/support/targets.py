"""Tiny random targets in the Transformers format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

VOCAB, HIDDEN, LAYERS = 97, 48, 4


# Layers that keep a state: short convolutions (LFM2) or a gated delta rule (Qwen3.5) between layers of attention.
CONVOLUTIONS = {"layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False}
DELTA_RULE = {
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "full_attention_interval": 4,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
# Transformers' configuration and model, and what this kind has of its own.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {"head_dim": 12}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 16}),
    "lfm2": ("Lfm2Config", "Lfm2ForCausalLM", CONVOLUTIONS),
    "qwen3.5": ("Qwen3_5TextConfig", "Qwen3_5ForCausalLM", {"head_dim": 16} | DELTA_RULE),
}


def write_target(
    folder: Path, kind: str = "llama", *, tied: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """Write a model of random weights, of one of ``KINDS``, and return the folder."""
    import transformers

    configuration, model, own = KINDS[kind]
    torch.manual_seed(seed)
    config = getattr(transformers, configuration)(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        **own,
    )
    getattr(transformers, model)(config).to(dtype).save_pretrained(folder)
    return folder


def write_adapter(folder: Path, target: Path, *, rank: int = 4, alpha: int = 8, seed: int = 0) -> Path:
    """Write a LoRA adapter of random weights for every linear layer, in PEFT's format; returns the folder."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in load_file(target / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            outputs, inputs = weight.shape
            tensors[f"{module}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) / inputs**0.5
            tensors[f"{module}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) / rank
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = sorted({name.split(".")[-3] for name in tensors})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(target), "bias": "none"}
    config |= {"r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "target_modules": modules}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@torch.no_grad()
def adapted(target: Path, adapter: Path | None):
    """The target in Transformers, with the adapter's products added to its weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    if adapter is not None:
        config = json.loads((adapter / "adapter_config.json").read_text())
        tensors = load_file(adapter / "adapter_model.safetensors")
        for name, down in tensors.items():
            if ".lora_A." in name:
                module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight += config["lora_alpha"] / config["r"] * tensors[name.replace("lora_A", "lora_B")] @ down
    return model


def continued(model, prompt: list[int], length: int) -> list[int]:
    """The prompt and the ``length`` tokens that a model of Transformers puts behind it, greedy."""
    return model.generate(torch.tensor([prompt]), max_new_tokens=length, do_sample=False)[0].tolist()


def write_quantised_target(folder: Path, target: Path, block: int = 16) -> Path:
    """The target with its linear layers in int8, a scale for each block of a weight: SGLang's ``blockwise_int8``."""
    tensors = load_file(target / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        weight = tensors[name].unflatten(0, (-1, block)).unflatten(-1, (-1, block))
        scale = weight.abs().amax((1, 3)) / 127
        quantised = (weight / scale[:, None, :, None]).round().to(torch.int8)
        tensors[name] = quantised.flatten(2).flatten(0, 1)
        tensors[f"{name}_scale_inv"] = scale
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "blockwise_int8",
        "activation_scheme": "dynamic",
        "weight_block_size": [block, block],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder
