"""``domino-sglang demo``: one chat model served with and without Domino, and a small table of the difference."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from domino_sglang.demo import packaged_drafter
from domino_sglang.demo.prompts import CHAT_PROMPTS
from domino_sglang.demo.target import prepare_target
from domino_sglang.measure.environment import hardware, versions
from domino_sglang.measure.server_process import ServerProcess
from domino_sglang.measure.tables import aligned, number

logger = logging.getLogger(__name__)

MODEL = "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Arm:
    """What one server did.

    Attributes:
        texts: answers, in the order of the prompts.
        tokens: completion tokens of all answers.
        seconds: wall time of all answers, one after the other.
        acceptance_length: committed tokens per verify step, None for plain decoding.
        start_time_s: seconds from launch to the first healthy reply.
    """

    texts: list[str]
    tokens: int
    seconds: float
    acceptance_length: float | None
    start_time_s: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table to FILE")
    parser.add_argument("--prepare-only", action="store_true", help="prepare target and drafter, print their folders")
    parser.add_argument("--serve", action="store_true", help="serve with DOMINO and stay up; Ctrl-C ends it")
    parser.add_argument("--port", type=int, help="port of --serve (default: a free one)")
    parser.add_argument("--max-tokens", type=int, default=96, help="longest answer, in tokens (default %(default)s)")
    parser.add_argument("--drafter", type=Path, help="another drafter's folder (default: the packaged one)")


def run(args: argparse.Namespace) -> int:
    """Prepare, serve both ways, compare; 0 when every answer came."""
    target = prepare_target()
    drafter = args.drafter or packaged_drafter()
    if args.prepare_only:
        sys.stdout.write(json.dumps({"target": str(target), "drafter": str(drafter)}) + "\n")
        return 0
    domino = [
        *("--speculative-algorithm", "DOMINO"),
        *("--speculative-draft-model-path", str(drafter)),
        # Each token to verify takes time there: the last of the drafter's proposals cost more than they bring.
        *_on_a_cpu("--speculative-num-draft-tokens", "6"),
    ]
    if args.serve:
        return _serve([*_common_flags(target), *domino], args.port)
    # A KV cache for one chat at a time: the default's 3 GB are the machine's own memory.
    common = [*_common_flags(target), *_on_a_cpu("--max-total-tokens", "8192")]
    with tempfile.TemporaryDirectory(prefix="domino-demo-") as logs:
        arms = {
            name: _run_arm(name, [*common, *flags], Path(logs) / f"{name}.log", args.max_tokens)
            for name, flags in (("DOMINO", domino), ("AR", []))
        }
    result = as_json(arms)
    sys.stdout.write(as_table(arms, result["identical"]))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def as_json(arms: dict[str, Arm]) -> dict:
    """The table as the ``--json`` file holds it."""
    return {
        "arms": {
            "AR": {"tokens_per_s": arms["AR"].tokens_per_s},
            "DOMINO": {
                "tokens_per_s": arms["DOMINO"].tokens_per_s,
                "acceptance_length": arms["DOMINO"].acceptance_length,
            },
        },
        "identical": arms["AR"].texts == arms["DOMINO"].texts,
        "hardware": hardware(),
        "versions": versions(),
    }


def as_table(arms: dict[str, Arm], identical: bool) -> str:
    """The table as the terminal shows it."""
    rows = []
    for name in ("AR", "DOMINO"):
        arm = arms[name]
        label = "plain decoding" if name == "AR" else name
        cells = (number(arm.tokens_per_s), number(arm.acceptance_length, 2), f"{arm.start_time_s:.0f} s")
        rows.append((label, *cells))
    lines = aligned(rows, ("", "tokens/s", "acceptance length", "start-up"), right=range(4))
    verdict = "identical" if identical else "NOT identical"
    return "\n".join(["", *lines, "", f"Greedy texts: {verdict}. Hardware: {hardware()}.", ""])


def _common_flags(target: Path) -> list[str]:
    import torch

    # float32 makes greedy texts comparable token by token; the attention kernels of a GPU want 16 bits.
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    return ["--model-path", str(target), "--served-model-name", MODEL, "--dtype", dtype]


def _on_a_cpu(*flags: str) -> list[str]:
    """Flags for a machine without a GPU."""
    import torch

    return [] if torch.cuda.is_available() else list(flags)


def _run_arm(name: str, flags: list[str], log: Path, max_tokens: int) -> Arm:
    logger.info("\n=== %s: python -m sglang.launch_server %s", name, " ".join(flags))
    with ServerProcess(flags, log) as server:
        _wait(server, name)
        return _ask(server, max_tokens)


def _wait(server: ServerProcess, name: str) -> None:
    with tqdm(desc=f"{name}: starting SGLang", bar_format="{desc} {elapsed}", leave=False) as bar:
        server.wait_until_ready(tick=lambda _passed: bar.refresh())
    logger.info("%s: ready after %.0f s", name, server.start_time_s)


def _ask(server: ServerProcess, max_tokens: int) -> Arm:
    texts, tokens, seconds = [], 0, 0.0
    for prompt in CHAT_PROMPTS:
        sys.stdout.write(f"\n> {prompt}\n")
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        pieces = []
        began = time.perf_counter()
        with server.client.stream("/v1/chat/completions", body) as events:
            for event in events:
                tokens += (event.get("usage") or {}).get("completion_tokens", 0)
                for choice in event["choices"]:
                    pieces.append(choice["delta"].get("content") or "")
                    sys.stdout.write(pieces[-1])
                    sys.stdout.flush()
        seconds += time.perf_counter() - began
        sys.stdout.write("\n")
        texts.append("".join(pieces))
    length = server.client.told("/server_info")["internal_states"][0].get("avg_spec_accept_length")
    return Arm(texts, tokens, seconds, length, server.start_time_s)


def _serve(flags: list[str], port: int | None) -> int:
    with (
        tempfile.TemporaryDirectory(prefix="domino-serve-") as logs,
        ServerProcess(flags, Path(logs) / "server.log", port) as server,
    ):
        _wait(server, "DOMINO")
        sys.stdout.write(
            f"Serving on {server.url}. Try:\n\n"
            f"curl -s {server.url}/v1/chat/completions -H 'Content-Type: application/json' -d "
            """'{"model": "SmolLM2-135M-Instruct", "messages": [{"role": "user", "content": "Hello!"}]}'\n\n"""
            f"Log: {server.log}. Ctrl-C ends the server.\n"
        )
        sys.stdout.flush()
        try:
            return server.running.wait()
        except KeyboardInterrupt:
            return 0
