"""Schedules over the steps of a run: base-anchored curriculum, block length, learning rate. Functions of the step."""

from __future__ import annotations

import math

from domino_sglang.training.recipe import TrainRecipe


def base_weight(step: int, recipe: TrainRecipe) -> float:
    """lambda of ``(1 - lambda) CE(logits) + lambda CE(base logits)``, falling linearly from ``lambda_start`` to 0.

    It reaches 0 after ``lambda_decay_ratio`` of all steps (SpecForge's ``lambda_base_decay_ratio``).
    """
    decay = recipe.lambda_decay_ratio * recipe.steps
    return recipe.lambda_start * max(0.0, 1.0 - step / decay) if decay > 0 else 0.0


def proposals_at(step: int, recipe: TrainRecipe, proposals: int) -> int:
    """How many proposals the blocks of this step have: 1 during ``first_proposal_ratio`` of all steps, then all."""
    return 1 if step < recipe.first_proposal_ratio * recipe.steps else proposals


def learning_rate(step: int, recipe: TrainRecipe) -> float:
    """Linear warmup over ``warmup_ratio`` of the steps, then a cosine down to ``min_lr_ratio``."""
    warmup = max(1, round(recipe.warmup_ratio * recipe.steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, recipe.steps - warmup))
    floor = recipe.min_lr_ratio
    return recipe.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
