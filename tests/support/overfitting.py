"""A tiny drafter that knows a target's texts: it drafts them from the context, almost without a miss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from domino_sglang.training.data.features import write_features
from domino_sglang.training.loop.trainer import Trainer
from domino_sglang.training.recipe import DataRecipe, DrafterRecipe, Recipe, TrainRecipe


def write_greedy_texts(recipe: Recipe, target, prompts: Sequence[Sequence[int]], length: int) -> None:
    """The target's own continuations of the prompts, with features, on disk where the recipe looks for them."""
    recipe.data_dir.mkdir(parents=True)
    with (recipe.data_dir / "responses.jsonl").open("w") as stream:
        for number, prompt in enumerate(prompts):
            ids = torch.tensor([prompt])
            out = target.generate(ids, max_new_tokens=length, do_sample=False, eos_token_id=None)[0].tolist()
            row = {"id": number, "temperature": 0.0, "prompt_ids": list(prompt), "response_ids": out[len(prompt) :]}
            stream.write(json.dumps(row | {"features": None}) + "\n")
    write_features(target, recipe.data_dir, recipe.cached_layers(target.config.num_hidden_layers), progress=False)


def write_knowing_drafter(folder: Path, target, prompts: Sequence[Sequence[int]], length: int) -> Path:
    """Train a drafter on the target's greedy texts; returns its checkpoint."""
    recipe = Recipe(
        target="tiny",
        work_dir=str(folder),
        drafter=DrafterRecipe(
            target_layer_ids=(0, 2), mask_token_id=0, num_hidden_layers=2, block_size=8, gru_hidden_dim=32, emb_dim=24
        ),
        data=DataRecipe(heldout=0),
        train=TrainRecipe(
            steps=220,
            batch_sequences=2,
            anchors_per_sequence=24,
            max_length=128,
            learning_rate=5e-3,
            eval_every=1000,
            save_every=1000,
        ),
    )
    write_greedy_texts(recipe, target, prompts, length)
    return Path(Trainer(recipe, target, folder, progress=False).train().checkpoint)
