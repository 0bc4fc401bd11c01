"""The best checkpoint of a run as a folder to ship: half precision, configuration, model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from pydantic import TypeAdapter

from domino_sglang.errors import UserError
from domino_sglang.hf import DominoDraftModel
from domino_sglang.training.data.storage import read_jsonl
from domino_sglang.training.evaluation.workloads import WORKLOADS
from domino_sglang.training.loop.dataset import load_split
from domino_sglang.training.loop.drafter import PACKAGED
from domino_sglang.training.recipe import DrafterRecipe, Recipe, TrainRecipe
from domino_sglang.training.record import check_run


def checkpoint_folder(recipe: Recipe) -> Path:
    """The best checkpoint of the run, else the last.

    Raises:
        UserError: the run has no checkpoint yet.
    """
    run = Path(recipe.work_dir)
    source = next((run / name for name in ("best", "checkpoint") if (run / name / "config.json").is_file()), None)
    if source is None:
        raise UserError(f"no checkpoint in {run}: it is written at the first evaluation (train.eval_every)")
    return source


def export_drafter(recipe: Recipe, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write ``folder`` with config.json, model.safetensors in ``dtype`` and README.md.

    Raises:
        UserError: the run has no checkpoint yet.
        RecipeError: the run was made with another recipe, which the card would not tell.
    """
    source = checkpoint_folder(recipe)
    check_run(Path(recipe.work_dir), recipe)
    staged = folder.with_name(folder.name + ".part")
    shutil.rmtree(staged, ignore_errors=True)
    drafter = DominoDraftModel.from_pretrained(source, dtype=dtype)
    drafter.save_pretrained(staged)
    model_card(recipe, source).save(staged / "README.md")
    for file in staged.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone; a package is read by everybody
    shutil.rmtree(folder, ignore_errors=True)
    staged.rename(folder)
    return folder


def model_card(recipe: Recipe, checkpoint: Path) -> ModelCard:
    """From what the run left behind: nothing in it is typed by hand."""
    run = Path(recipe.work_dir)
    note = checkpoint / "acceptance.json"
    best: dict[str, Any] = json.loads(note.read_text()) if note.is_file() else {}
    log = _log_until(run / "metrics.jsonl", best.get("step"))
    split = load_split(recipe.data_dir, recipe.data.heldout, recipe.train.max_length)
    shape, train = recipe.drafter, recipe.train
    losses = [row for row in log if "loss" in row]
    curve = losses[:: max(1, len(losses) // 12)] if losses else []
    reports = [(row["step"], row["acceptance"]["length"]) for row in log if "acceptance" in row]
    kinds = "\n".join(f"| {kind} | {value:.2f} |" for kind, value in best.get("by_kind", {}).items())
    measured = _workload_table(checkpoint / WORKLOADS)
    positions = ", ".join(f"{value:.2f}" for value in best.get("by_position", []))
    about = ModelCardData(
        license="apache-2.0", library_name="transformers", tags=["speculative-decoding", "domino", "sglang"]
    )
    return ModelCard(f"""---
{about.to_yaml()}
---
# Domino drafter for {"SmolLM2-135M-Instruct" if recipe.target == "demo" else recipe.target}

{shape.num_hidden_layers} layers, block size {shape.block_size}, GRU {shape.gru_hidden_dim}, rank {shape.emb_dim}, \
capture layers {list(shape.target_layer_ids)}, stored in bfloat16.

## Data
Self-synthesised: the target wrote the user turns (grade-school maths from reasoning-gym, training-only seeds) and all \
responses; {recipe.data.greedy_share:.0%} of them greedy, the rest at temperature {recipe.data.temperature}. \
{len(split.training)} chats, {split.response_tokens} response tokens; {len(split.heldout)} chats held out. HumanEval \
prompts and the evaluation's maths problems are excluded by text.

## Training
{"Teacher forcing" if train.method == "tf" else "Training-time test"}, {_curriculum(train)}, \
gamma {train.gamma}, AdamW {train.learning_rate}, \
{train.batch_sequences} sequences of {train.anchors_per_sequence} anchors a step.{_extras(train)}\
{_start(shape)} \
This checkpoint: step {best.get("step", "?")} of {train.steps}.

| step | loss | final cross entropy | base cross entropy | accuracy |
|---|---|---|---|---|
{
        chr(10).join(
            f"| {r['step']} | {r['loss']:.3f} | {r['loss_final']:.3f} | {r['loss_base']:.3f} | {r['accuracy']:.3f} |"
            for r in curve
        )
    }

Acceptance length on held-out text at step: {", ".join(f"{step}: {value:.2f}" for step, value in reports)}.

## Acceptance length
Greedy, replayed on {len(split.evaluated(train.eval_sequences))} held-out chats of the training distribution (bonus \
included, {best.get("steps", "?")} verify steps): **{best.get("length", 0):.2f}**.

| workload | acceptance length |
|---|---|
{kinds}

Share of steps that accept proposal 1, 2, ...: {positions}.
{measured}
## Again
```
domino-sglang train RECIPE.yaml --export FOLDER
```
with this recipe:
```yaml
{yaml.safe_dump(_plain(recipe), sort_keys=False).strip()}
```
""")


def _curriculum(train: TrainRecipe) -> str:
    if not train.lambda_start or not train.lambda_decay_ratio:
        return "no base-anchored curriculum (lambda 0 throughout)"
    return f"lambda {train.lambda_start} falling to 0 over {train.lambda_decay_ratio:.0%} of the steps"


def _extras(train: TrainRecipe) -> str:
    """What the run did besides the paper's recipe."""
    said = []
    if train.first_proposal_ratio:
        said.append(f"the first {train.first_proposal_ratio:.0%} of the steps trained proposal 1 alone")
    if train.distill:
        said.append(f"{train.distill:.0%} of each label was the target's own next-token distribution")
    return f" Beside the paper's recipe, {' and '.join(said)}." if said else ""


def _start(shape: DrafterRecipe) -> str:
    source = shape.start_from
    if source is None:
        return ""
    began = "the drafter packaged before this one" if source == PACKAGED else f"`{source}`"
    return f" The weights{' of the backbone' if shape.fresh_head else ''} began as {began}."


def _log_until(file: Path, last: int | None) -> list[dict[str, Any]]:
    """Rows up to the checkpoint's step; of steps that a killed run did twice, the second time."""
    rows = {
        (row["step"], "acceptance" in row): row for _, row in read_jsonl(file) if last is None or row["step"] <= last
    }
    return [rows[key] for key in sorted(rows)]


def _workload_table(file: Path) -> str:
    if not file.is_file():
        return ""
    rows = [row for _, row in read_jsonl(file)]
    lines = [
        "",
        f"Decoding evaluation prompts with Transformers (`spec_generate`, {rows[0]['prompts']} prompts each, at most "
        f"{rows[0]['max_new_tokens']} new tokens):",
        "",
        "| workload | temperature | with head | head off | verify steps |",
        "|---|---|---|---|---|",
    ]
    off = {(row["workload"], row["temperature"]): row for row in rows if not row["head"]}
    for row in rows:
        if row["head"]:
            base = off[row["workload"], row["temperature"]]["acceptance_length"]
            cells = (
                row["workload"],
                row["temperature"],
                f"{row['acceptance_length']:.2f}",
                f"{base:.2f}",
                row["steps"],
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


def _plain(recipe: Recipe) -> dict[str, Any]:
    made = TypeAdapter(Recipe).dump_python(recipe, mode="json", exclude_none=True)
    return made | {"work_dir": f"runs/{Path(recipe.work_dir).name}"}
