"""The options by which a measurement is told what to ask."""

from __future__ import annotations

import argparse
from pathlib import Path

from domino_sglang.measure.workloads import (
    LONG_CHARACTERS,
    WORKLOADS,
    Prompt,
    WorkloadError,
    from_hub,
    from_jsonl,
    long,
)


def add_prompt_arguments(parser: argparse.ArgumentParser, default: tuple[str, ...]) -> None:
    """Declare ``--workload``, ``--jsonl``, ``--hf-dataset`` and what belongs to them."""
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--workload",
        nargs="+",
        choices=[*WORKLOADS],
        metavar="NAME",
        help=f"of {', '.join(WORKLOADS)} (default: {' '.join(default)}, or none beside prompts of your own)",
    )
    group.add_argument("--jsonl", type=Path, metavar="FILE", help="own prompts: a line holds prompt or messages")
    group.add_argument("--hf-dataset", metavar="NAME[:CONFIG]", help="own prompts: a dataset on the Hugging Face Hub")
    group.add_argument("--hf-split", default="train", help="split of --hf-dataset")
    group.add_argument("--hf-column", metavar="FIELD", help="field of --hf-dataset that holds the prompt")
    group.add_argument(
        "--long-characters", type=int, default=LONG_CHARACTERS, help="length of a document in the workload 'long'"
    )
    parser.set_defaults(default_workloads=default)


def prompts_by_workload(args: argparse.Namespace) -> dict[str, tuple[Prompt, ...]]:
    """Prompts under the name of their workload.

    Raises:
        WorkloadError: they cannot be had.
    """
    own: dict[str, tuple[Prompt, ...]] = {}
    if args.jsonl is not None:
        own[args.jsonl.stem] = from_jsonl(args.jsonl)
    if args.hf_dataset is not None:
        prompts = from_hub(args.hf_dataset, args.hf_split, args.hf_column)
        own[prompts[0].workload] = prompts
    named = args.workload or ([] if own else args.default_workloads)
    chosen = {name: long(args.long_characters) if name == "long" else WORKLOADS[name]() for name in named} | own
    if not chosen:
        raise WorkloadError("no prompts: pass --workload, --jsonl or --hf-dataset")
    return chosen
