"""Acceptance length of a drafter on the evaluation's own prompts, by really decoding with Transformers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from domino_sglang.hf import DominoDraftModel, stop_ids
from domino_sglang.measure import workloads as asked
from domino_sglang.measure.workloads import Prompt, WorkloadError
from domino_sglang.training.data.synthesize import Chat

logger = logging.getLogger(__name__)

WORKLOADS = "workloads.jsonl"
DECODED = ("humaneval", "maths", "chat")


def evaluation_prompts(count: int) -> dict[str, list[Prompt]]:
    """The first prompts of HumanEval, grade-school maths and the project's chat, at most ``count`` each."""
    found: dict[str, list[Prompt]] = {}
    for name in DECODED:
        try:
            found[name] = [*asked.WORKLOADS[name]()[:count]]
        except WorkloadError as error:
            logger.warning("%s: the workload %s is left out", error, name)
    return found


def measure_workloads(
    drafter: DominoDraftModel,
    target: PreTrainedModel,
    tokenizer,
    *,
    count: int,
    max_new_tokens: int = 128,
    temperatures: Sequence[float] = (0.0, 1.0),
    progress: bool = True,
) -> list[dict[str, object]]:
    """One row per workload, temperature and head on or off: committed tokens per verify step, bonus included."""
    chat, stops, rows = Chat(tokenizer), stop_ids(target, tokenizer), []
    prompts = evaluation_prompts(count)
    cases = [(name, t, head) for name in prompts for t in temperatures for head in (True, False)]
    for name, temperature, head in tqdm(cases, desc="workloads", disable=not progress):
        steps: list[int] = []
        for seed, prompt in enumerate(prompts[name]):
            ids = torch.tensor([chat.prompt_ids([*prompt.messages])], device=target.device)
            steps += drafter.spec_generate(
                target, ids, max_new_tokens, temperature, seed=seed, stop_token_ids=stops, head=head
            ).acceptance
        rows.append(
            {
                "workload": name,
                "temperature": temperature,
                "head": head,
                "acceptance_length": sum(steps) / max(len(steps), 1),
                "steps": len(steps),
                "prompts": len(prompts[name]),
                "max_new_tokens": max_new_tokens,
            }
        )
    return rows


def write_workloads(file: Path, rows: Sequence[dict[str, object]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
