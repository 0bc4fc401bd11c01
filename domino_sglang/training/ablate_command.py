"""``domino-sglang ablate RECIPE``: the paper's training ablations with this data and budget."""

from __future__ import annotations

import argparse
import logging
from datetime import date
from pathlib import Path

from domino_sglang.bench.provenance import RESULTS, slug
from domino_sglang.environment import hardware
from domino_sglang.training.options import add_recipe_arguments, load_recipe, load_target

logger = logging.getLogger(__name__)

# What an arm of the ablation is trained as: training.ablation says what each means.
RUNS = ("curriculum", "dflash", "tf", "ttt", "ttt-curriculum")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="training seeds (default: 0 1 2)")
    parser.add_argument(
        "--runs",
        nargs="+",
        choices=RUNS,
        help="train only these (default: all)",
    )
    parser.add_argument(
        "--out", help="folder for rows, table and plot (default: benchmarks/results/DATE-HARDWARE-ablation)"
    )


def run(args: argparse.Namespace) -> int:
    from domino_sglang.training.ablation import run_ablation

    recipe = load_recipe(args)
    target, _ = load_target(recipe, not args.no_progress)
    folder = Path(args.out or RESULTS / f"{date.today():%Y-%m-%d}-{slug(hardware())}-ablation")
    logger.info("ablations in %s", run_ablation(recipe, target, folder, args.seeds, not args.no_progress, args.runs))
    return 0
