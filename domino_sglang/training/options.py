"""What the commands of training share: the recipe on the command line, and the target it names."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from domino_sglang.training.loop.precision import usable_dtype
from domino_sglang.training.recipe import DEMO_TARGET, Recipe, RecipeError


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command of this module takes."""
    parser.add_argument("recipe", help="YAML recipe, or the name of a packaged one (smollm2-135m)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe, e.g. --set train.steps=500 (repeatable)",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def load_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with its ``--set`` changes.

    Raises:
        RecipeError: no such recipe, or a field it does not have, or a value that does not fit it.
    """
    changes: dict[str, Any] = {}
    for change in args.set:
        name, equals, value = change.partition("=")
        if not equals:
            raise RecipeError(f"--set {change!r}: expected FIELD=VALUE, e.g. --set train.steps=500")
        try:
            changes[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set {change!r}: {value!r} is not valid YAML; quote it") from None
    if args.threads:
        torch.set_num_threads(args.threads)
    return Recipe.load(args.recipe, changes)


def load_target(recipe: Recipe, progress: bool = True, dtype: str = "auto") -> tuple[PreTrainedModel, Any]:
    """The frozen target in eval mode on the best device, and its tokenizer.

    Args:
        dtype: ``auto`` is the checkpoint's own; ``bfloat16`` becomes ``float32`` where a CPU cannot multiply it.

    Raises:
        RecipeError: no such target.
    """
    path = recipe.target
    if path == DEMO_TARGET:
        from domino_sglang.demo import prepare_target

        path = str(prepare_target(progress=progress))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    # cuDNN's attention is planned anew for every length, and lengths change from step to step.
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=usable_dtype(dtype, device))
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot load the target {path!r}: {error}; set `target:` to a checkpoint folder") from error
    return model.to(device).eval(), tokenizer
