"""``domino-sglang bench exactness``: greedy tokens against plain decoding's, alone and in a batch, cold and warm cache.

A difference is reported with what both servers think of the two tokens at the first place where they part.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from tqdm import tqdm

from domino_sglang.bench.common import rows, server_metrics
from domino_sglang.bench.common.arms import DOMINO, PLAIN, Arm, ArmError, build_arms
from domino_sglang.bench.common.fleet import Fleet
from domino_sglang.bench.common.prompt_options import add_prompt_arguments, prompts_by_workload
from domino_sglang.bench.common.server_options import add_server_arguments, common_flags, drafter_folder
from domino_sglang.bench.exactness.compare import compare
from domino_sglang.bench.exactness.report import write_report
from domino_sglang.bench.exactness.rows import CACHES, ExactnessSettings, PassRow, PlainRow
from domino_sglang.measure.client import Client
from domino_sglang.measure.provenance import results_folder, without_folders
from domino_sglang.measure.workloads import Prompt

logger = logging.getLogger(__name__)

INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_server_arguments(parser)
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="NAME=URL",
        help=f"a server that is up already, {PLAIN} or {DOMINO}; the others are started",
    )
    add_prompt_arguments(parser, default=("humaneval", "maths", "chat", "long"))
    what = parser.add_argument_group("measurement")
    what.add_argument("--num-prompts", type=int, default=16, help="of each workload")
    what.add_argument("--max-tokens", type=int, default=64, help="longest answer, in tokens")
    what.add_argument("--concurrency", type=int, nargs="+", default=[1, 8], help="requests at once")
    what.add_argument("--out", type=Path, help="folder of the report (default: under benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    """Measure and report; 0 only when every token of every prompt is the same in every pass, 130 after Ctrl-C."""
    import torch

    gpu = torch.cuda.is_available()
    prompts = {name: [*found[: args.num_prompts]] for name, found in prompts_by_workload(args).items()}
    with tempfile.TemporaryDirectory(prefix="domino-exactness-") as workspace:
        arms = _arms(args, gpu, Path(workspace))
        out = results_folder("exactness", args.out)
        settings = ExactnessSettings(
            servers={arm.name: without_folders(arm.url or shlex.join(arm.flags)) for arm in arms.values()},
            prompts={name: len(found) for name, found in prompts.items()},
            concurrencies=args.concurrency,
            max_tokens=args.max_tokens,
        )
        rows.begin(out / "rows.jsonl", settings)
        status = 0
        try:
            with Fleet(Path(workspace), together=True) as fleet:
                clients = {name: Client(fleet.ready(arm)[0]) for name, arm in arms.items()}
                for row in measure(clients[PLAIN], clients[DOMINO], prompts, args.max_tokens, args.concurrency):
                    rows.append(out / "rows.jsonl", row)
                    status |= isinstance(row, PassRow) and bool(row.differences)
        except KeyboardInterrupt:
            logger.warning("Interrupted: keeping what was measured.")
            status = INTERRUPTED
        except httpx.HTTPError as error:
            logger.error("A server gave no answer, what was measured is kept: %s", error)
            status = 1
    logger.info("%s", write_report(out))
    return status


def measure(
    plain: Client, domino: Client, prompts: Mapping[str, list[Prompt]], max_tokens: int, concurrencies: list[int]
) -> Iterator[PlainRow | PassRow]:
    """All passes, each as soon as it is done."""
    named = {
        f"{workload} {number}": plain.conversation_ids(prompt.messages)
        for workload, found in prompts.items()
        for number, prompt in enumerate(found)
    }
    first: list[list[int]] | None = None
    for concurrency in concurrencies:
        plain.flush_cache()
        expected = ask_all(plain, named, max_tokens, concurrency, f"{PLAIN} x{concurrency}")
        first = first or expected
        different = sum(a != b for a, b in zip(first, expected, strict=True))
        yield PlainRow(concurrency, sum(map(len, expected)), different)
        domino.flush_cache()
        for cache in CACHES:
            before = server_metrics.scrape(domino.url)
            got = ask_all(domino, named, max_tokens, concurrency, f"{DOMINO} x{concurrency} {cache}")
            decoding = server_metrics.between(before, server_metrics.scrape(domino.url))
            differences = compare(named, expected, got, plain_client=plain, domino_client=domino)
            for difference in differences:
                logger.warning("x%d %s: %s", concurrency, cache, difference)
            yield PassRow(concurrency, cache, differences, decoding.acceptance_length)


def ask_all(
    client: Client, prompts: Mapping[str, list[int]], max_tokens: int, concurrency: int, name: str
) -> list[list[int]]:
    """Output ids of every prompt, so many at a time."""

    def ids(prompt: list[int]) -> list[int]:
        return client.generate(prompt, {"max_new_tokens": max_tokens})["output_ids"]

    with ThreadPoolExecutor(concurrency) as pool:
        return list(tqdm(pool.map(ids, prompts.values()), total=len(prompts), desc=name))


def _arms(args: argparse.Namespace, gpu: bool, workspace: Path) -> dict[str, Arm]:
    up = build_arms([], common=(), drafter=None, workspace=workspace, urls=args.url) if args.url else []
    unknown = sorted({arm.name for arm in up} - {PLAIN, DOMINO})
    if unknown:
        raise ArmError(
            f"--url names {unknown}, expected {PLAIN} and {DOMINO}, as in --url {PLAIN}=http://127.0.0.1:30000"
        )
    missing = [name for name in (PLAIN, DOMINO) if name not in {arm.name for arm in up}]
    if missing:
        drafter = drafter_folder(args) if DOMINO in missing else None
        up += build_arms(missing, common=common_flags(args, gpu), drafter=drafter, workspace=workspace)
    return {arm.name: arm for arm in up}
