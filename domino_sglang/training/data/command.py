"""``domino-sglang data synthesize|join|features|pack RECIPE``."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from domino_sglang.training.data.storage import read_jsonl
from domino_sglang.training.options import add_recipe_arguments, load_recipe, load_target
from domino_sglang.training.recipe import Recipe, RecipeError
from domino_sglang.training.record import settle_data

logger = logging.getLogger(__name__)

# Prompts and answers grow in turns, so that an interrupted night leaves pairs and not prompts alone.
PROMPTS_PER_ROUND = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="data_action", required=True, metavar="ACTION")
    synthesize = actions.add_parser(
        "synthesize", help="write prompts and the target's own responses (restartable: run the same command again)"
    )
    add_recipe_arguments(synthesize)
    synthesize.add_argument("--endpoint", help="generate through an OpenAI-compatible server at this base URL")
    synthesize.add_argument("--model", default="default", help="model name for --endpoint")
    join = actions.add_parser(
        "join", help="append the chats that other runs of synthesize wrote, from their work folders"
    )
    add_recipe_arguments(join)
    join.add_argument("folders", nargs="+", metavar="FOLDER", help="work_dir of another run")
    pack = actions.add_parser("pack", help="compress the responses into a corpus that recipes can name")
    add_recipe_arguments(pack)
    pack.add_argument("--out", required=True, help="file to write, NAME.jsonl.xz")
    features = actions.add_parser("features", help="cache the target's hidden states of all responses")
    add_recipe_arguments(features)
    features.add_argument(
        "--whole-loops",
        action="store_true",
        help="also write out greedy responses that were cut in a loop, as far as the target itself goes on with it",
    )


def run(args: argparse.Namespace) -> int:
    recipe, progress = load_recipe(args), not args.no_progress
    settle_data(recipe)
    if args.data_action in ("features", "join") and recipe.data.corpus:
        from domino_sglang.training.data.corpus import unpack_corpus

        unpack_corpus(recipe.data.corpus, recipe.data_dir, recipe.data.num_prompts)
    if args.data_action == "features":
        from domino_sglang.training.data.features import write_features

        target, _ = load_target(recipe, progress, recipe.data.target_dtype)
        layers = recipe.cached_layers(target.config.get_text_config().num_hidden_layers)
        whole_loops = recipe.data.max_new_tokens if args.whole_loops else 0
        write_features(target, recipe.data_dir, layers, whole_loops=whole_loops, progress=progress)
        return 0
    if args.data_action == "join":
        from domino_sglang.training.data.join import join_responses

        logger.info("%s: %d chats joined", recipe.data_dir, join_responses(args.folders, recipe.data_dir))
        return 0
    if args.data_action == "pack":
        from domino_sglang.training.data.corpus import pack_corpus

        logger.info("%s: %d chats", args.out, pack_corpus(recipe.data_dir, Path(args.out)))
        return 0
    target, tokenizer = load_target(recipe, progress, recipe.data.target_dtype)
    if args.endpoint:
        if recipe.data.corpus:
            raise RecipeError(
                f"data.corpus is {recipe.data.corpus!r}, whose texts are written already, and --endpoint writes new "
                "ones; drop either (--set data.corpus=null)"
            )
        from domino_sglang.training.data.remote import write_remote_responses
        from domino_sglang.training.data.synthesize import write_prompts

        write_prompts(target, tokenizer, recipe.data, recipe.data_dir, progress)
        write_remote_responses(args.endpoint, args.model, tokenizer, recipe.data, recipe.data_dir, progress)
        return 0
    synthesize(recipe, target, tokenizer, progress)
    return 0


def synthesize(recipe: Recipe, target: PreTrainedModel, tokenizer: Any, progress: bool = True) -> None:
    """The recipe's corpus, or prompts and responses in rounds, until its number of prompts is answered."""
    from domino_sglang.training.data.synthesize import write_prompts, write_responses

    settle_data(recipe)
    layers = recipe.cached_layers(target.config.get_text_config().num_hidden_layers)
    if recipe.data.corpus:
        return _unpack(recipe.data.corpus, recipe, target, layers, progress)
    wanted = recipe.data.num_prompts
    together = max(PROMPTS_PER_ROUND, 16 * recipe.data.slots)
    for goal in [*range(together, wanted, together), wanted]:
        data = dataclasses.replace(recipe.data, num_prompts=goal)
        file = write_prompts(target, tokenizer, data, recipe.data_dir, progress)
        write_responses(target, tokenizer, data, recipe.data_dir, layers, progress)
        if recipe.data.prompts_file and sum(1 for _ in read_jsonl(file)) < goal:
            return


def _unpack(corpus: str, recipe: Recipe, target: PreTrainedModel, layers: tuple[int, ...], progress: bool) -> None:
    from domino_sglang.training.data.corpus import unpack_corpus
    from domino_sglang.training.data.features import write_features

    unpack_corpus(corpus, recipe.data_dir, recipe.data.num_prompts)
    if recipe.data.cache_features and not (recipe.data_dir / "features.f16").is_file():
        write_features(target, recipe.data_dir, layers, progress=progress)
