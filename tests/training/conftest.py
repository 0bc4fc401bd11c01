"""A tiny Llama with a byte-like tokenizer and a chat template, and data made from it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from domino_sglang.training.recipe import DataRecipe, DrafterRecipe, Recipe, TrainRecipe

HIDDEN, LAYERS = 32, 4
LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!:\n0123456789()_'\"+-*/=<>#[]"
SPECIAL = ["<pad>", "<mask>", "<|im_start|>", "<|im_end|>", "<unk>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    # Two busy threads on two busy cores wait for each other longer than they compute.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *dict.fromkeys(LETTERS)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<|im_end|>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": ["<mask>", "<|im_start|>"]})
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="session")
def target(tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe(
        target="tiny",
        work_dir=str(tmp_path / "run"),
        drafter=DrafterRecipe(
            target_layer_ids=(0, 2),
            mask_token_id=1,
            num_hidden_layers=1,
            block_size=4,
            gru_hidden_dim=12,
            emb_dim=8,
        ),
        data=DataRecipe(heldout=2, max_new_tokens=24, max_prompt_tokens=64, slots=3, seed=3, mix={"chat": 1.0}),
        train=TrainRecipe(
            steps=8,
            batch_sequences=2,
            anchors_per_sequence=5,
            max_length=96,
            eval_every=1000,
            save_every=4,
            log_every=1,
            learning_rate=3e-3,
        ),
    )


@pytest.fixture
def chats(recipe, target):
    """Random chats with features of the tiny target, on disk where the recipe looks for them."""
    write_chats(recipe, target, count=8)
    return recipe


def write_chats(recipe: Recipe, target, count: int, length: int = 30, seed: int = 0) -> None:
    from domino_sglang.training.data.features import write_features

    generator = torch.Generator().manual_seed(seed)
    recipe.data_dir.mkdir(parents=True, exist_ok=True)
    with (recipe.data_dir / "responses.jsonl").open("w") as stream:
        for number in range(count):
            ids = torch.randint(5, target.config.vocab_size, (8 + length,), generator=generator).tolist()
            row = {
                "id": number,
                "kind": "chat",
                "temperature": 0.0,
                "prompt_ids": ids[:8],
                "response_ids": ids[8 : 8 + length - 3 * (number % 3)],
                "features": None,
            }
            stream.write(json.dumps(row) + "\n")
    write_features(target, recipe.data_dir, recipe.drafter.target_layer_ids, progress=False)


def changed(recipe: Recipe, **train) -> Recipe:
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **train))
