"""``domino-sglang bench accept``: tokens a step against verified tokens, of chains and trees, without a server."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from domino_sglang.bench.accept.replay import Text

from domino_sglang.bench.accept.rows import AcceptRow, AcceptSettings, Way
from domino_sglang.bench.common import rows
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
    what.add_argument(
        "--proposals",
        type=float,
        nargs="+",
        default=[1, 2, 3, 5, 7, 15, 31],
        help="verified a step and request, on average (default: %(default)s)",
    )
    what.add_argument(
        "--topk", type=int, default=4, help="paths of a tree side by side, and children of each (default %(default)s)"
    )
    what.add_argument("--seed", type=int, default=0, help="of sampling")
    what.add_argument("--out", type=Path, help="folder of the report (default: under benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    """Measure and report; 0, or 130 after Ctrl-C, which keeps what was measured."""
    import torch

    prompts, drafter = prompts_by_workload(args), drafter_folder(args)
    out = results_folder("accept", args.out)
    settings = AcceptSettings(
        [*prompts], args.temperature, args.proposals, args.topk, args.num_prompts, args.max_tokens, args.seed
    )
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
        """One temperature after the other: the target's texts, then every way of drafting them."""
        from domino_sglang.bench.accept.replay import Drafts, Shape, replay

        for temperature in args.temperature:
            texts = [*self._texts(args, prompts, temperature)]
            owners, said = [(workload, number) for workload, number, _ in texts], [text for _, _, text in texts]
            tokens = sum(len(text.tokens) - 1 - text.prompt for text in said)
            for topk, head in ((1, False), (1, True), (args.topk, False), (args.topk, True)):
                drafts = Drafts(self.drafter, self.target, Shape(topk, head))
                ways = [Way(topk, head, ragged) for ragged in ((False, True) if head else (False,))]
                work = [(way, proposals) for way in ways for proposals in args.proposals]
                with tqdm(total=tokens * len(work), desc=f"{ways[0].name} at {temperature:g}", unit="token") as bar:
                    for way, proposals in work:
                        found = (
                            replay(said, drafts, proposals, bar.update)
                            if way.ragged
                            else [replay([text], drafts, proposals, bar.update)[0] for text in said]
                        )
                        for (workload, number), committed in zip(owners, found, strict=True):
                            yield AcceptRow(workload, number, temperature, way, proposals, committed)

    def _texts(
        self, args: argparse.Namespace, prompts: dict[str, tuple[Prompt, ...]], temperature: float
    ) -> Iterator[tuple[str, int, Text]]:
        from domino_sglang.bench.accept.replay import write_text

        work = [
            (workload, number, prompt)
            for number in range(args.num_prompts)
            for workload, choice in prompts.items()
            for prompt in take(choice, 1, number)
        ]
        for workload, number, prompt in tqdm(work, desc=f"texts at {temperature:g}", unit="prompt"):
            text = write_text(
                self.drafter,
                self.target,
                self._ids(prompt),
                temperature=temperature,
                seed=args.seed + number,
                max_new_tokens=args.max_tokens,
                stops=self.stops,
            )
            yield workload, number, text

    def _ids(self, prompt: Prompt):
        messages = [dict(message) for message in prompt.messages]
        encoded = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return encoded["input_ids"].to(self.device)
