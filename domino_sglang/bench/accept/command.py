"""``domino-sglang bench accept``: acceptance length by workload, temperature, head and drafting, without a server."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from domino_sglang.bench.accept.rows import AcceptRow, AcceptSettings
from domino_sglang.bench.common import rows
from domino_sglang.bench.common.arms import PLAIN
from domino_sglang.bench.common.prompt_options import add_prompt_arguments, prompts_by_workload
from domino_sglang.bench.common.server_options import add_model_arguments, drafter_folder, dtype, target_path
from domino_sglang.measure.provenance import results_folder
from domino_sglang.measure.workloads import Prompt, take

logger = logging.getLogger(__name__)

INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_arguments(parser)
    add_prompt_arguments(parser, default=("humaneval", "maths", "chat", "long"))
    what = parser.add_argument_group("measurement")
    what.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.6, 1.0], help="0 is greedy")
    what.add_argument("--num-prompts", type=int, default=8, help="of each workload")
    what.add_argument("--max-tokens", type=int, default=64, help="longest answer, in tokens")
    what.add_argument("--no-plain", action="store_true", help="no plain decoding beside it, and so no speedup")
    what.add_argument("--seed", type=int, default=0, help="of sampling")
    what.add_argument("--out", type=Path, help="folder of the report (default: under benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    """Measure and report; 0, or 130 after Ctrl-C, which keeps what was measured."""
    import torch

    prompts, drafter = prompts_by_workload(args), drafter_folder(args)
    out = results_folder("accept", args.out)
    settings = AcceptSettings([*prompts], args.temperature, args.num_prompts, args.max_tokens, args.seed)
    rows.begin(out / "rows.jsonl", settings)
    status = 0
    bench = Bench(target_path(args), drafter, dtype(args, torch.cuda.is_available()))
    try:
        for row in bench.rows(args, prompts):
            rows.append(out / "rows.jsonl", row)
    except KeyboardInterrupt:
        logger.warning("Interrupted: keeping what was measured.")
        status = INTERRUPTED
    from domino_sglang.bench.accept.report import write_report

    logger.info("%s", write_report(out))
    return status


class Bench:
    """Target and drafter, loaded once."""

    def __init__(self, target: str, drafter: Path, dtype: str):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from domino_sglang.hf import DominoDraftModel, stop_ids

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(target)
        self.target = AutoModelForCausalLM.from_pretrained(target, dtype=getattr(torch, dtype)).to(self.device).eval()
        self.drafter = DominoDraftModel.from_pretrained(drafter, dtype=dtype, device=self.device)
        self.stops = stop_ids(self.target)

    def rows(self, args: argparse.Namespace, prompts: dict[str, tuple[Prompt, ...]]) -> Iterator[AcceptRow]:
        """Every way of drafting in turn at each prompt, so that an interruption leaves a fair part."""
        from domino_sglang.bench.accept.offline import GREEDY, SAMPLED, Drafting, decode, decode_plainly

        work = [
            (workload, number, prompt, temperature)
            for number in range(args.num_prompts)
            for workload, choice in prompts.items()
            for prompt in take(choice, 1, number)
            for temperature in args.temperature
        ]
        for workload, number, prompt, temperature in tqdm(work, desc="acceptance", unit="prompt"):
            ids = self._ids(prompt)
            options = {
                "temperature": temperature,
                "max_new_tokens": args.max_tokens,
                "stops": self.stops,
                "seed": args.seed + number,
            }
            if not args.no_plain:
                trace = decode_plainly(self.target, ids, **options)
                count = len(trace.tokens) - 1
                yield AcceptRow(workload, number, temperature, PLAIN, "", [], count, trace.seconds)
            for drafts in (SAMPLED, GREEDY) if temperature > 0 else (GREEDY,):
                for head in (False, True):
                    drafting = Drafting(head, drafts)
                    trace = decode(self.drafter, self.target, ids, drafting, **options)
                    count = len(trace.tokens) - 1
                    yield AcceptRow(
                        workload, number, temperature, drafting.arm, drafts, trace.accepted, count, trace.seconds
                    )

    def _ids(self, prompt: Prompt):
        messages = [dict(message) for message in prompt.messages]
        encoded = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return encoded["input_ids"].to(self.device)
