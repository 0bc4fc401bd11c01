"""``domino-sglang inspect CHECKPOINT [--target MODEL]``: what a drafter is, what it costs, whether it fits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from domino_sglang.checkpoint import (
    CheckpointReport,
    Comparison,
    Problem,
    compare_context,
    compare_draft_tokens,
    compare_with_target,
    context_length,
    examine,
    local_folder,
    target_text_config,
)
from domino_sglang.core.config import CheckpointError, DominoConfig
from domino_sglang.measure import tables

MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", help="folder of a Domino drafter (config.json and safetensors), or its hub name")
    parser.add_argument("--target", metavar="MODEL", help="the model it shall draft for: a folder or a hub name")
    parser.add_argument(
        "--num-draft-tokens", type=int, metavar="N", help="the --speculative-num-draft-tokens you mean to serve with"
    )
    parser.add_argument(
        "--context-length", type=int, metavar="N", help="the --context-length you mean to serve with; default: target's"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print the inspection; 0 only when the checkpoint can be served (with the target, if one is given)."""
    report, problems = examine(args.checkpoint)
    config = report.config if report else _config_alone(args.checkpoint)
    rows: list[Comparison] = []
    if config is not None:
        try:
            rows = _compare(config, args)
        except CheckpointError as error:
            problems = [*problems, Problem(str(error))]
    problems = [*problems, *(row.problem for row in rows if row.problem)]
    warnings = list(report.warnings) if report else []
    if args.json:
        text = json.dumps(as_json(args.checkpoint, args.target, report, rows, problems, warnings), indent=2)
    else:
        text = "\n".join(as_text(args.checkpoint, args.target, report, rows, problems, warnings))
    sys.stdout.write(text + "\n")
    return 1 if problems else 0


def _compare(config: DominoConfig, args: argparse.Namespace) -> list[Comparison]:
    """The drafter against what it shall be served with, as far as the arguments say."""
    rows, context = [], args.context_length
    if args.target is not None:
        rows = compare_with_target(config, args.target)
        context = context or context_length(target_text_config(args.target))
    if context is not None:
        rows.append(compare_context(config, context))
    if args.num_draft_tokens is not None:
        rows.append(compare_draft_tokens(config, args.num_draft_tokens))
    return rows


def costs(report: CheckpointReport) -> dict[str, int]:
    """What the drafter takes on a server, in bytes.

    * ``weights``: resident, one copy (each tensor-parallel rank holds its share of the backbone).
    * ``read_per_draft_step``: drafter weights read for one block at batch 1: backbone once, the head once per proposal
      it serves; the target's embedding and LM head are not counted.
    * ``target_lm_head_read``: the target's LM head, read once more per block, in the drafter's dtype.
    * ``kv_per_token``: draft KV cache per committed token.
    * ``base_logits_per_request``: ``[S, V]`` logits of one block, alive for the length of a step.
    """
    config, item = report.config, report.dtype.itemsize
    part = report.parameters
    corrected = config.S - config.pure_draft_prefix_len
    # The GRU reads every token before the last corrected proposal, corrected or not.
    gru_reads = config.S if corrected else 0
    read = (
        part["backbone"] + part["context projection"] + part["prefix GRU"] * gru_reads + part["correction"] * corrected
    )
    return {
        "weights": report.nbytes,
        "read_per_draft_step": read * item,
        "target_lm_head_read": config.V * config.H * item,
        "kv_per_token": 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * item,
        "base_logits_per_request": config.S * config.V * item,
    }


def as_json(
    checkpoint: str,
    target: str | None,
    report: CheckpointReport | None,
    rows: Sequence[Comparison],
    problems: Sequence[Problem],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The inspection as plain data; ``ok`` is what the exit status says."""
    found: dict[str, Any] = {"checkpoint": str(checkpoint), "target": target, "ok": not problems}
    if report:
        found |= {
            "config": dict(settings(report.config, report)),
            "dtype": str(report.dtype).removeprefix("torch."),
            "gru_bias": report.gru_bias,
            "parameters": {**report.parameters, "total": report.num_parameters},
            "bytes": costs(report),
            "tensors": {
                name: {"shape": list(tensor.shape), "bytes": tensor.nbytes, "file": tensor.file.name}
                for name, tensor in report.tensors.items()
            },
        }
    found["fits"] = [
        {"property": row.name, "drafter": row.drafter, "target": row.target, "fits": not row.problem} for row in rows
    ]
    found["problems"] = [asdict(problem) | {"message": str(problem)} for problem in problems]
    found["warnings"] = list(warnings)
    return found


def as_text(
    checkpoint: str,
    target: str | None,
    report: CheckpointReport | None,
    rows: Sequence[Comparison],
    problems: Sequence[Problem],
    warnings: Sequence[str],
) -> list[str]:
    """The inspection as lines for a terminal."""
    lines = [f"Checkpoint {checkpoint}"]
    if report:
        lines += ["", *tables.aligned(settings(report.config, report))]
        lines += ["", "Tensors", *tables.aligned(tensor_rows(report), header=("name", "shape", "MB"), right={2})]
        lines += [
            "",
            "Parameters",
            *tables.aligned(part_rows(report), header=("part", "parameters", "MB"), right={1, 2}),
        ]
        lines += ["", "On a server", *tables.aligned(cost_rows(report))]
    if rows:
        lines += ["", f"Fit with the target {target}" if target else "Fit"]
        marked = [(row.name, row.drafter, row.target, "no" if row.problem else "yes") for row in rows]
        lines += tables.aligned(marked, header=("", "drafter", "target" if target else "asked for", "fits"))
    lines += [""] + [f"warning: {warning}" for warning in warnings]
    lines += [f"problem: {problem}" for problem in problems]
    if problems:
        lines.append(f"{len(problems)} problem{'s' * (len(problems) > 1)}: this drafter cannot be served as it is.")
    elif target:
        lines.append("OK: the drafter is complete and fits the target.")
    else:
        lines.append("OK: the drafter is complete. Add --target MODEL to hold it against the model it shall draft for.")
    return lines


def settings(config: DominoConfig, report: CheckpointReport) -> list[tuple[str, Any]]:
    """The drafter's switches and sizes."""
    return [
        ("block_size", config.block_size),
        ("proposals", config.S),
        ("hidden_size", config.H),
        ("vocab_size", config.V),
        ("num_hidden_layers", config.num_hidden_layers),
        ("target_layer_ids", list(config.target_layer_ids)),
        ("num_target_layers", config.num_target_layers),
        ("mask_token_id", config.mask_token_id),
        ("gru_hidden_dim", config.G),
        ("emb_dim", config.R),
        ("pure_draft_prefix_len", config.pure_draft_prefix_len),
        ("shift_label", config.shift_label),
        ("gru_bias", report.gru_bias),
        ("dtype", str(report.dtype).removeprefix("torch.")),
    ]


def tensor_rows(report: CheckpointReport) -> list[tuple[str, ...]]:
    """Name, shape and size of every tensor; layers that look alike share a row."""
    config = report.config
    rows: list[tuple[str, ...]] = []
    layers = f"layers.0..{config.num_hidden_layers - 1}."
    for name, tensor in report.tensors.items():
        size = tensor.nbytes
        if name.startswith("layers."):
            if not name.startswith("layers.0."):
                continue
            if config.num_hidden_layers > 1:
                name = name.replace("layers.0.", layers)
                size *= config.num_hidden_layers
        rows.append((name, str(list(tensor.shape)), megabytes(size)))
    return rows


def part_rows(report: CheckpointReport) -> list[tuple[str, ...]]:
    item = report.dtype.itemsize
    rows: list[tuple[str, ...]] = [
        (part, f"{count:,}", megabytes(count * item)) for part, count in report.parameters.items()
    ]
    return [*rows, ("total", f"{report.num_parameters:,}", megabytes(report.nbytes))]


def cost_rows(report: CheckpointReport) -> list[tuple[str, ...]]:
    cost = costs(report)
    kv = cost["kv_per_token"]
    return [
        ("weights", f"{megabytes(cost['weights'])} MB"),
        ("draft KV cache", f"{kv:,} bytes per token, {megabytes(kv * 1000)} MB per 1,000 tokens"),
        ("base logits", f"{megabytes(cost['base_logits_per_request'])} MB per running request, during a step"),
        ("read per draft step", f"{megabytes(cost['read_per_draft_step'])} MB of drafter weights at batch 1"),
        ("", f"and {megabytes(cost['target_lm_head_read'])} MB of the target's LM head"),
    ]


def megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.3f}" if size < MEGABYTE else f"{size / MEGABYTE:,.1f}"


def _config_alone(checkpoint: str) -> DominoConfig | None:
    """The configuration of a checkpoint whose tensors are wrong: the target can be held against it all the same."""
    try:
        return DominoConfig.from_pretrained(local_folder(checkpoint))
    except CheckpointError:
        return None
