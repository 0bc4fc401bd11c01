"""Ablations at the size of one machine: the same data and budget, one change at a time, several seeds."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from transformers import PreTrainedModel

from domino_sglang.measure import tables
from domino_sglang.measure.provenance import Provenance
from domino_sglang.training.data.storage import DataError, GrowingJsonl, read_jsonl
from domino_sglang.training.loop.trainer import Trainer
from domino_sglang.training.recipe import Recipe, RecipeError
from domino_sglang.training.record import settle_rows

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        trained_as: arms that differ only in evaluation share one training run.
        train, drafter: fields changed against the recipe.
        head: evaluate with the Domino head.
    """

    name: str
    trained_as: str
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    drafter: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    head: bool = True


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and the arms that answer it.

    Attributes:
        baseline: the arm that gains are taken against.
        note: what others found.
    """

    arms: Sequence[Arm]
    baseline: str
    note: str = ""

    def only(self, runs: Sequence[str]) -> Study:
        """The arms that are trained as one of these.

        Raises:
            RecipeError: none is trained as one of them.
        """
        known = sorted({arm.trained_as for arm in self.arms})
        if unknown := sorted(set(runs) - set(known)):
            raise RecipeError(f"--runs {unknown[0]!r}: expected some of {known}")
        return dataclasses.replace(self, arms=[arm for arm in self.arms if arm.trained_as in runs])


def training_study(recipe: Recipe) -> Study:
    """The paper's: with and without head, DFlash alone, TTT, TF (without curriculum: lambda = 0), TF + curriculum."""
    only_prefix = {"pure_draft_prefix_len": recipe.drafter.block_size - 1}
    arms = [
        Arm("TF + curriculum (Domino)", "curriculum"),
        Arm("the same, head off", "curriculum", head=False),
        Arm("DFlash alone", "dflash", drafter=only_prefix, head=False),
        Arm("TF, lambda = 0", "tf", train={"lambda_start": 0.0}),
        Arm("TF, lambda = 0, head off", "tf", train={"lambda_start": 0.0}, head=False),
        Arm("TTT, lambda = 0", "ttt", train={"lambda_start": 0.0, "method": "ttt"}),
        Arm("TTT + curriculum", "ttt-curriculum", train={"method": "ttt"}),
    ]
    paper = "The paper (Qwen3-8B): without head 3.49, with head 4.19; TTT 3.80, TF 3.96, TF + curriculum 4.19."
    return Study(arms, "DFlash alone", paper)


def head_size_study(recipe: Recipe) -> Study:
    """A fresh head of half and twice the recipe's GRU width G and rank R, all else the recipe's."""
    width, rank = recipe.drafter.gru_hidden_dim, recipe.drafter.emb_dim
    sizes = [(width, rank), (width // 2, rank), (width * 2, rank), (width, rank // 2), (width, rank * 2)]
    arms = [
        Arm(
            f"GRU {g}, rank {r}",
            f"gru{g}-rank{r}",
            drafter={"gru_hidden_dim": g, "emb_dim": r, "fresh_head": recipe.drafter.start_from is not None},
        )
        for g, r in sizes
    ]
    return Study(arms, arms[0].name)


def run_ablation(
    recipe: Recipe,
    target: PreTrainedModel,
    folder: Path,
    study: Study,
    seeds: Sequence[int],
    progress: bool = True,
) -> Path:
    """Train and measure every arm for every seed; restartable, rows already in ``rows.jsonl`` are kept.

    Writes ``rows.jsonl``, ``README.md`` and (with matplotlib) ``acceptance.png`` into ``folder``.

    Raises:
        RecipeError: ``folder`` has rows of another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = GrowingJsonl(folder / "rows.jsonl")
    done = {(row["arm"], row["seed"]) for _, row in read_jsonl(folder / "rows.jsonl")}
    settle_rows(folder, recipe, bool(done))
    about = conditions()
    try:
        for seed in seeds:
            for arm in study.arms:
                if (arm.name, seed) not in done:
                    output.append({**measure(recipe, target, arm, seed, progress), **about})
    finally:
        output.close()
    rows = [row for _, row in read_jsonl(folder / "rows.jsonl")]
    (folder / "README.md").write_text(report(rows, study))
    plot(rows, folder / "acceptance.png")
    return folder


def measure(recipe: Recipe, target: PreTrainedModel, arm: Arm, seed: int, progress: bool) -> dict[str, Any]:
    """Train one arm (or take up its finished run) and replay the held-out responses in full."""
    changed = dataclasses.replace(
        recipe,
        drafter=dataclasses.replace(recipe.drafter, **arm.drafter),
        train=dataclasses.replace(recipe.train, **arm.train, seed=seed),
    )
    trainer = Trainer(changed, target, Path(recipe.work_dir) / "ablation" / f"{arm.trained_as}-{seed}", progress)
    trainer.train()
    result = trainer.evaluate(head=arm.head, max_new_tokens=None)
    if result is None:
        raise DataError("no held-out greedy response to evaluate on: raise data.heldout or data.greedy_share")
    logger.info("%s, seed %d: acceptance length %.3f", arm.name, seed, result.length)
    return {
        "arm": arm.name,
        "seed": seed,
        "training_steps": changed.train.steps,
        "sequences": len(trainer.training),
        "parameters": sum(parameter.numel() for parameter in trainer.drafter.parameters()),
        **dataclasses.asdict(result),
    }


def conditions() -> dict[str, Any]:
    """Date, hardware, versions, commit and command of a measurement."""
    found = Provenance.now()
    kept = {name: getattr(found, name) for name in ("date", "hardware", "commit", "command")}
    return kept | {name: found.versions[name] for name in ("torch", "transformers")}


def by_arm(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Arm to seed to row."""
    table: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        table[row["arm"]][row["seed"]] = row
    return table


def report(rows: Sequence[Mapping[str, Any]], study: Study) -> str:
    """Markdown table of acceptance lengths: mean and spread over seeds, kinds of prompts, gain over the baseline."""
    table, first = by_arm(rows), rows[0]
    kinds = sorted(first["by_kind"])
    lines = [
        "# Ablations: acceptance length on held-out text, greedy replay",
        "",
        f"{first['date']}, {first['hardware']}, torch {first['torch']}, transformers {first['transformers']}, commit "
        f"{first['commit']}; {first['training_steps']} steps on {first['sequences']} chats; command: "
        f"`{first['command']}`",
        "",
        "Means over the seeds ± their standard deviation; the gain is taken seed by seed.",
        "",
    ]
    body = []
    base = table.get(study.baseline, {})
    for arm, seeds in table.items():
        gains = [100 * (row["length"] / base[seed]["length"] - 1) for seed, row in seeds.items() if seed in base]
        by_kind = [f"{mean(row['by_kind'][kind] for row in seeds.values()):.2f}" for kind in kinds]
        length = spread([row["length"] for row in seeds.values()], ".3f")
        size = f"{next(iter(seeds.values()))['parameters'] / 1e6:.2f}M"
        body.append([arm, length, spread(gains, "+.1f", "%"), *by_kind, size, len(seeds)])
    head = ["arm", "acceptance length", f"against {study.baseline}", *kinds, "parameters", "seeds"]
    return "\n".join([*lines, *tables.markdown(head, body), *([study.note, ""] if study.note else [])])


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Mean ± standard deviation; the mean alone of one value, a dash of none."""
    if not values:
        return "-"
    middle = f"{mean(values):{form}}{unit}"
    return f"{middle} ± {stdev(values):{form.lstrip('+')}}" if len(values) > 1 else middle


def plot(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """One bar per arm with its seeds as points."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        logger.warning("no plot: `pip install 'domino-sglang[bench]'` for matplotlib")
        return
    lengths = {arm: [row["length"] for row in seeds.values()] for arm, seeds in by_arm(rows).items()}
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(lengths) + 1.2), layout="constrained")
    for place, (_, values) in enumerate(lengths.items()):
        axes.barh(place, mean(values), color="#9db7d5")
        axes.plot(values, [place] * len(values), "o", color="#1f3b57", markersize=4)
    axes.set_yticks(range(len(lengths)), list(lengths))
    axes.invert_yaxis()
    axes.set_xlim(left=1.0)
    axes.set_xlabel("acceptance length (bonus included), held-out text, greedy")
    figure.savefig(file, dpi=150)
    plt.close(figure)
