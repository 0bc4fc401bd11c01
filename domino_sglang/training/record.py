"""What a folder was made with, so that another recipe is not silently mixed into it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from domino_sglang.training.recipe import Recipe, RecipeError

logger = logging.getLogger(__name__)

RECORD = "recipe.json"
# What a run may go on with: how long, how often it looks up, where it lies, and what only costs time or disk.
SCHEDULE = {"train.steps", "train.eval_every", "train.save_every", "train.log_every"}
COSTS = {"work_dir", "data.slots", "data.cache_features"}
FREE_IN_A_RUN = SCHEDULE | COSTS | {"data.num_prompts"}
# What does not concern the texts, or is about the use that training makes of them.
FREE_IN_DATA = COSTS | {"data.heldout"}


def dotted(recipe: Recipe) -> dict[str, Any]:
    """Every field under the name that ``--set`` takes, as JSON reads it back."""
    fields: dict[str, Any] = {}
    for name, value in TypeAdapter(Recipe).dump_python(recipe, mode="json").items():
        section = isinstance(value, dict)
        fields |= {f"{name}.{inner}": held for inner, held in value.items()} if section else {name: value}
    return fields


def check_run(folder: Path, recipe: Recipe) -> None:
    """Refuse to go on with a run, or to export it, under another recipe.

    Raises:
        RecipeError: the field, what it was, what it is, and what to do.
    """
    _check(folder / RECORD, dotted(recipe), FREE_IN_A_RUN, "choose another work_dir")


def note_run(folder: Path, recipe: Recipe) -> None:
    _write(folder / RECORD, dotted(recipe))


def settle_data(recipe: Recipe) -> None:
    """Refuse to use texts of other origin than the recipe's, and note where they come from.

    More prompts than before are written beside them; fewer, or another part of a corpus, would be another data set.

    Raises:
        RecipeError: as :func:`check_run`.
    """
    file = recipe.data_dir / RECORD
    fields = {name: value for name, value in dotted(recipe).items() if name == "target" or name.startswith("data.")}
    if any((recipe.data_dir / name).is_file() for name in ("prompts.jsonl", "responses.jsonl")):
        grown = not recipe.data.corpus and fields["data.num_prompts"] >= _read(file).get("data.num_prompts", 0)
        free = FREE_IN_DATA | ({"data.num_prompts"} if grown else set())
        _check(file, fields, free, "choose another work_dir")
    _write(file, fields)


def settle_rows(folder: Path, recipe: Recipe, rows: bool) -> None:
    """Refuse to add rows to measurements of another recipe, and note this one's.

    Raises:
        RecipeError: as :func:`check_run`.
    """
    if rows:
        free = FREE_IN_A_RUN - {"train.steps", "data.num_prompts"}
        _check(folder / RECORD, dotted(recipe), free, "choose another --out")
    _write(folder / RECORD, dotted(recipe))


def _check(file: Path, fields: Mapping[str, Any], free: Collection[str], fix: str) -> None:
    was = _read(file)
    if not was:
        logger.warning("%s: nothing says which recipe this folder was made with; taken to be this one", file.parent)
    for name, value in fields.items():
        if name not in free and name in was and was[name] != value:
            raise RecipeError(
                f"{file.parent} was made with {name} {was[name]!r}, and the recipe says {value!r}; {fix}, or set "
                f"{name} back"
            )


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def _write(file: Path, fields: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(fields, indent=2) + "\n")
    os.replace(part, file)
