"""Tiny random targets in the Transformers format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

VOCAB, HIDDEN, LAYERS = 97, 48, 4


def write_target(
    folder: Path, kind: str = "llama", *, tied: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Path:
    """Write a Llama or Qwen3 of random weights and return the folder."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    configuration, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[kind]
    torch.manual_seed(seed)
    config = configuration(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12 if kind == "llama" else 16,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    model(config).to(dtype).save_pretrained(folder)
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
