"""``domino-sglang ablate RECIPE``: the paper's training ablations, or sizes of the head, with this data and budget."""

from __future__ import annotations

import argparse
import logging
from datetime import date
from pathlib import Path

from domino_sglang.measure.environment import hardware
from domino_sglang.measure.provenance import RESULTS, slug
from domino_sglang.training.options import add_recipe_arguments, load_recipe, load_target
from domino_sglang.training.record import settle_data

logger = logging.getLogger(__name__)

STUDIES = ("ablation", "head-size")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (default: 0 1 2)")
    parser.add_argument("--study", choices=STUDIES, default="ablation", help="what differs: training or head size")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="train only these, e.g. dflash tf (default: all)")
    parser.add_argument("--out", help="folder for rows, table and plot (default: a new one in benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    """Train and measure every arm for every seed.

    Raises:
        RecipeError: no such recipe or field, the study has no such run, or the data or rows are another recipe's.
    """
    from domino_sglang.training.evaluation.ablation import head_size_study, run_ablation, training_study

    recipe = load_recipe(args)
    study = {"ablation": training_study, "head-size": head_size_study}[args.study](recipe)
    if args.runs:
        study = study.only(args.runs)
    settle_data(recipe)
    target, _ = load_target(recipe, not args.no_progress)
    folder = Path(args.out or RESULTS / f"{date.today():%Y-%m-%d}-{slug(hardware())}-{args.study}")
    logger.info("results in %s", run_ablation(recipe, target, folder, study, args.seeds, not args.no_progress))
    return 0
