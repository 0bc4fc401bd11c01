"""The training loop: frozen target, anchored blocks, schedules, evaluation, resumable state.

Everything random is a function of (seed, step), so a killed run that is started again continues the same loss curve:
the state on disk is the step number, the parameters and the optimiser.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from domino_sglang.hf import DominoDraftModel
from domino_sglang.training.data.storage import DataError, check_layers
from domino_sglang.training.evaluation.acceptance import AcceptanceReport, replay
from domino_sglang.training.evaluation.workloads import WORKLOADS
from domino_sglang.training.loop.anchors import Blocks, block_rows, cut_blocks, draw_anchors
from domino_sglang.training.loop.curriculum import base_weight, learning_rate, proposals_at
from domino_sglang.training.loop.dataset import (
    CachedFeatures,
    Example,
    TargetFeatures,
    frequent_tokens,
    load_split,
    similar_lengths,
)
from domino_sglang.training.loop.drafter import TargetEnds, load_weights, new_drafter
from domino_sglang.training.loop.loss import BlockLoss
from domino_sglang.training.loop.parallel import World, gather_state, scatter_state
from domino_sglang.training.loop.precision import usable_dtype
from domino_sglang.training.loop.scaling import fold_scale, measure_scale
from domino_sglang.training.loop.step import TrainingStep
from domino_sglang.training.loop.vocabulary import draw_candidates
from domino_sglang.training.recipe import Recipe
from domino_sglang.training.record import check_run, note_run, settle_data

logger = logging.getLogger(__name__)

STATE = "state.pt"


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        step: optimiser steps done.
        losses: mean loss of each step of this session.
        report: the last evaluation, or None.
        checkpoint: the last exported drafter.
    """

    step: int
    losses: list[float]
    report: AcceptanceReport | None
    checkpoint: Path


class Trainer:
    """Trains the drafter of one recipe.

    Args:
        recipe: what to do.
        target: the frozen target, in eval mode.
        run_dir: state, logs and checkpoints; default ``work_dir``.
        progress: show a progress bar.

    Raises:
        RecipeError: ``run_dir`` or the data belong to another recipe, or a field does not fit the target.
        DataError: the data are missing or malformed.
    """

    def __init__(self, recipe: Recipe, target: PreTrainedModel, run_dir: Path | None = None, progress: bool = True):
        self.recipe, self.settings, self.progress = recipe, recipe.train, progress
        self.world = World.join(self.settings.parallel)
        self.autocast = usable_dtype(self.settings.dtype, self.world.device) == "bfloat16"
        self.run_dir = run_dir or Path(recipe.work_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        resuming = (self.run_dir / STATE).is_file()
        if resuming or (self.run_dir / "best").is_dir():
            check_run(self.run_dir, recipe)
        settle_data(recipe)
        self.target = target.to(self.world.device).requires_grad_(False).eval()
        self.ends = TargetEnds.of(self.target)
        split = load_split(recipe.data_dir, recipe.data.heldout, self.settings.max_length)
        self.training = split.training
        self.heldout = split.evaluated(self.settings.eval_sequences)
        self.features = self._feature_source()
        self.frequent = torch.empty(0, dtype=torch.long)
        if self.settings.frequent_vocab:
            self.frequent = frequent_tokens(self.training, self.settings.frequent_vocab)
        self.drafter = new_drafter(recipe.drafter, target, self.settings.seed).to(self.world.device).train()
        if not resuming:
            self.scale = measure_scale(self.training, self._context_features).to(self.world.device)
            if recipe.drafter.start_from:
                load_weights(self.drafter, recipe.drafter.start_from, head=not recipe.drafter.fresh_head)
                fold_scale(self.drafter, 1 / self.scale)
        self.step_module = self.world.wrap(TrainingStep(self.drafter, self.ends, self.settings))
        self.optimizer = torch.optim.AdamW(
            self.step_module.parameters(),
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            weight_decay=self.settings.weight_decay,
        )
        self.step = 0
        if resuming:
            self._resume()
        if self.world.leads:
            note_run(self.run_dir, recipe)
            logger.info(
                "%d sequences, %d response tokens; %d held-out; drafter of %.1fM parameters; step %d of %d",
                len(self.training),
                split.response_tokens,
                len(self.heldout),
                sum(p.numel() for p in self.drafter.parameters()) / 1e6,
                self.step,
                self.settings.steps,
            )

    def _feature_source(self) -> CachedFeatures | TargetFeatures:
        layers = self.recipe.cached_layers(self.target.config.get_text_config().num_hidden_layers)
        file = self.recipe.data_dir / "features.f16"
        if not self.recipe.data.cache_features:
            return TargetFeatures(self.target, layers)
        if not file.is_file():
            raise DataError(
                f"no {file}: write it with `domino-sglang data features`, or set data.cache_features: false"
            )
        check_layers(file, layers)
        return CachedFeatures(file, len(layers) * self.ends.embedding.shape[1])

    def _context_features(self, examples: Sequence[Example]) -> torch.Tensor:
        """What the drafter reads, without what distillation reads beside it: ``[B, T, K * H]``."""
        return self.features(examples)[..., : self.drafter.fc.in_features]

    def train(self, until: int | None = None) -> Progress:
        """Run to the last step (or to ``until``), saving, evaluating and exporting on the way."""
        settings, report = self.settings, None
        losses: list[torch.Tensor] = []  # read at the end: a GPU is not waited for in between
        last = min(settings.steps, until or settings.steps)
        log = _Log(self.run_dir, self.world.leads)
        batches = self._batches()
        try:
            with tqdm(
                total=settings.steps, initial=self.step, desc="train", disable=not (self.progress and self.world.leads)
            ) as bar:
                pace = _Pace(self.step)
                while self.step < last:
                    measured = self._one_step(*next(batches))
                    losses.append(measured["loss"])
                    self.step += 1
                    bar.update()
                    if self.step % settings.log_every == 0:
                        row = {name: float(value) for name, value in measured.items()}
                        row["seconds"] = pace.seconds_per_step(self.step)
                        bar.set_postfix(loss=f"{row['loss']:.3f}", acc=f"{row['accuracy']:.3f}")
                        log.step(self.step, row)
                    if self.step % settings.eval_every == 0 or self.step == settings.steps:
                        report = self.evaluate()
                        log.acceptance(self.step, report)
                        self._export(report)
                        pace = _Pace(self.step)
                    if self.step % settings.save_every == 0 or self.step == last:
                        self._save()
        finally:
            log.close()
        return Progress(self.step, [float(loss) for loss in losses], report, self.run_dir / "checkpoint")

    def _batches(self) -> Iterator[tuple[list[Example], Blocks]]:
        """This rank's part of each global batch, which does not depend on the number of processes."""
        mine, world = self.settings.batch_sequences, self.world
        total = mine * world.size
        step = self.step
        order = similar_lengths(self.training, self.settings.seed, step, total)
        domino = self.drafter.domino
        while True:
            proposals = proposals_at(step, self.settings, domino.S)
            count = self.settings.anchors_per_sequence * (domino.block_size // block_rows(domino, proposals))
            batch = next(order)[world.rank * mine : (world.rank + 1) * mine]
            anchors = []
            for place, example in enumerate(batch, world.rank * mine):
                generator = torch.Generator().manual_seed(_mixed(self.settings.seed, step, place))
                anchors.append(draw_anchors(example, count, generator))
            yield batch, cut_blocks(batch, anchors, proposals + 1)
            step += 1

    def _one_step(self, examples: Sequence[Example], blocks: Blocks) -> dict[str, Any]:
        """One optimiser step; what it measured, as numbers or as tensors that a GPU may still be working on."""
        settings, device = self.settings, self.world.device
        generator = torch.Generator().manual_seed(_mixed(settings.seed, self.step, -1))
        candidates = draw_candidates(
            self.frequent, blocks.labels[blocks.valid], len(self.ends.embedding), settings.sampled_vocab, generator
        )
        mix, rate = base_weight(self.step, settings), learning_rate(self.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            features = self.features(examples).to(device)
            features[..., : len(self.scale)] *= self.scale
            loss: BlockLoss = self.step_module(features, blocks.to(device), mix, candidates.to(device))
        weight = self.world.sum(loss.weight)
        # Gradients are averaged over processes, so each contributes its sum over the global weight, times their number.
        (loss.total * (self.world.size / weight)).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.step_module.parameters(), settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        sums = self.world.sum(torch.stack([loss.total, loss.final, loss.base, loss.correct, loss.labels]).float())
        total, final, base = sums[:3] / weight
        return {
            "loss": total,
            "loss_final": final,
            "loss_base": base,
            "accuracy": sums[3] / sums[4],
            "lambda": mix,
            "learning_rate": rate,
            "gradient_norm": norm.full_tensor() if hasattr(norm, "full_tensor") else norm,
        }

    def evaluate(self, head: bool = True, max_new_tokens: int | None = 96) -> AcceptanceReport | None:
        """Acceptance length on the held-out greedy responses; None when there are none."""
        if not self.heldout:
            return None
        drafter = self._whole_drafter()
        return replay(
            drafter, self.ends, self.heldout, self._context_features, head=head, max_new_tokens=max_new_tokens
        )

    def _whole_drafter(self) -> DominoDraftModel:
        """A copy that reads raw features, as it is exported."""
        model, _ = gather_state(self.step_module, self.optimizer)
        whole = new_drafter(self.recipe.drafter, self.target, 0).to(self.world.device)
        if self.world.leads:
            whole.load_state_dict({name.removeprefix("drafter."): tensor for name, tensor in model.items()})
        if self.world.size > 1:
            for tensor in whole.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        return fold_scale(whole, self.scale).eval()

    def _export(self, report: AcceptanceReport | None) -> None:
        """The public format in ``checkpoint/``, and in ``best/`` when the acceptance length is the best so far."""
        drafter = self._whole_drafter()
        if not self.world.leads:
            return
        _replace_folder(drafter, self.run_dir / "checkpoint")
        note = self.run_dir / "best" / "acceptance.json"
        best = json.loads(note.read_text())["length"] if note.is_file() else -1.0
        if report is not None and report.length > best:
            _replace_folder(drafter, self.run_dir / "best")
            (self.run_dir / "best" / WORKLOADS).unlink(missing_ok=True)  # it was measured on the one before
            note.write_text(json.dumps({"step": self.step, **dataclasses.asdict(report)}, indent=2) + "\n")

    def _save(self) -> None:
        model, optimiser = gather_state(self.step_module, self.optimizer)
        if self.world.leads:
            part = self.run_dir / (STATE + ".part")
            state = {"step": self.step, "model": model, "optimizer": optimiser, "scale": self.scale.cpu()}
            torch.save(state, part)
            os.replace(part, self.run_dir / STATE)
        self.world.wait()

    def _resume(self) -> None:
        """Take up the state on disk."""
        file = self.run_dir / STATE
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        scatter_state(self.world, self.step_module, self.optimizer, state["model"], state["optimizer"])
        self.step, self.scale = int(state["step"]), state["scale"].to(self.world.device)
        logger.info("resuming %s after step %d", file, self.step)


def _mixed(seed: int, step: int, place: int) -> int:
    return (seed * 1_000_003 + step) * 4099 + place + 7


def _replace_folder(drafter: DominoDraftModel, folder: Path) -> None:
    """Save beside and rename, so that a reader never meets half a checkpoint."""
    part = folder.with_name(folder.name + ".part")
    drafter.save_pretrained(part)
    part_files = {file.name for file in part.iterdir()}
    folder.mkdir(exist_ok=True)
    for name in sorted(part_files):
        os.replace(part / name, folder / name)
    part.rmdir()


class _Pace:
    """Seconds per step since the last question."""

    def __init__(self, step: int):
        self.step, self.started = step, time.perf_counter()

    def seconds_per_step(self, step: int) -> float:
        now = time.perf_counter()
        seconds = (now - self.started) / max(1, step - self.step)
        self.step, self.started = step, now
        return seconds


class _Log:
    """``metrics.jsonl`` and, when tensorboard is installed, its event file."""

    def __init__(self, folder: Path, active: bool):
        self.stream = (folder / "metrics.jsonl").open("a") if active else None
        self.writer = None
        if active:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(str(folder / "tensorboard"))
            except ImportError:
                logger.warning("tensorboard is not installed: `pip install 'domino-sglang[train]'`; metrics.jsonl only")

    def step(self, step: int, row: dict[str, float]) -> None:
        if self.stream is None:
            return
        self._line({"step": step, **row})
        if self.writer is not None:
            for name, value in row.items():
                self.writer.add_scalar(f"train/{name}", value, step)

    def acceptance(self, step: int, report: AcceptanceReport | None) -> None:
        if self.stream is None or report is None:
            return
        self._line({"step": step, "acceptance": dataclasses.asdict(report)})
        if self.writer is not None:
            self.writer.add_scalar("heldout/acceptance_length", report.length, step)
            for kind, value in report.by_kind.items():
                self.writer.add_scalar(f"heldout/acceptance_length_{kind}", value, step)

    def _line(self, row: dict[str, Any]) -> None:
        self.stream.write(json.dumps(row) + "\n")  # type: ignore[union-attr]
        self.stream.flush()  # type: ignore[union-attr]

    def close(self) -> None:
        for output in (self.stream, self.writer):
            if output is not None:
                output.close()
