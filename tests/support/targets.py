"""Tiny random targets in the Transformers format."""

from __future__ import annotations

from pathlib import Path

import torch

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
