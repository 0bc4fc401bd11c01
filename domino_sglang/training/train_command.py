"""``domino-sglang train RECIPE``, or ``torchrun --nproc-per-node N -m domino_sglang.cli train RECIPE``."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from domino_sglang.hf import DominoDraftModel
from domino_sglang.training.options import add_recipe_arguments, load_recipe, load_target

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--export", metavar="FOLDER", help="copy the best checkpoint here when done, with a model card")
    parser.add_argument(
        "--measure",
        type=int,
        default=0,
        metavar="N",
        help="then decode N prompts of each evaluation workload for the card",
    )
    parser.add_argument("--no-data", action="store_true", help="train on the data there is; write no more of it first")
    parser.add_argument("--export-only", action="store_true", help="export what there is, train nothing")


def run(args: argparse.Namespace) -> int:
    """Train; what is missing of the data is written first, so that one command makes a drafter."""
    from domino_sglang.training.data.command import synthesize
    from domino_sglang.training.evaluation.workloads import WORKLOADS, measure_workloads, write_workloads
    from domino_sglang.training.export import checkpoint_folder, export_drafter
    from domino_sglang.training.loop.trainer import Trainer

    recipe, progress = load_recipe(args), not args.no_progress
    # One process writes data; many would write the same rows into the same files.
    if not (args.export_only or args.no_data) and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # Before training's own target is loaded, which may have another precision: never two in memory.
        synthesize(recipe, *load_target(recipe, progress, recipe.data.target_dtype), progress)
    if args.measure or not args.export_only:
        # What cached features were computed with is past; computed in every step, they are as the target wrote.
        dtype = "auto" if recipe.data.cache_features else recipe.data.target_dtype
        target, tokenizer = load_target(recipe, progress, dtype)
    if not args.export_only:
        trainer = Trainer(recipe, target, progress=progress)
        done = trainer.train()
        trainer.world.leave()
        if done.report is not None:
            logger.info(
                "acceptance length on held-out text %.3f; checkpoint in %s", done.report.length, done.checkpoint
            )
        if not trainer.world.leads:
            return 0
    if args.measure:
        source = checkpoint_folder(recipe)
        drafter = DominoDraftModel.from_pretrained(source, dtype="bfloat16").to(target.device, target.dtype)
        rows = measure_workloads(drafter, target, tokenizer, count=args.measure, progress=progress)
        write_workloads(source / WORKLOADS, rows)
    if args.export or args.export_only:
        folder = Path(args.export or Path(recipe.work_dir) / "export")
        logger.info("exported to %s", export_drafter(recipe, folder))
    return 0
