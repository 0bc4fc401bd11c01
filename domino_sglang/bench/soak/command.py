"""``domino-sglang bench soak``: hours in the life of a server, and proof that it came out as it went in."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import threading
import time
from pathlib import Path

import httpx
from tqdm import tqdm

from domino_sglang.bench.common import rows
from domino_sglang.bench.common.arms import DOMINO, Arm, build_arms
from domino_sglang.bench.common.fleet import Fleet
from domino_sglang.bench.common.server_options import add_server_arguments, common_flags, drafter_folder
from domino_sglang.bench.soak.health import NotIdle, group_memory, memory_growth, probe, wait_until_idle
from domino_sglang.bench.soak.load import Users
from domino_sglang.bench.soak.rows import FAILED, Soak, SoakSettings
from domino_sglang.measure.client import Client
from domino_sglang.measure.provenance import results_folder, without_folders
from domino_sglang.measure.server_process import ServerFailed

logger = logging.getLogger(__name__)

# A small KV cache is soon full, so that eviction is at work for most of the soak and its memory is all touched early.
CPU_FLAGS = ("--max-total-tokens", "16384")
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_server_arguments(parser)
    parser.add_argument("--url", help="a DOMINO server that is up already (default: one is started)")
    parser.add_argument("--pid", type=int, help="with --url: process whose group's memory is watched")
    what = parser.add_argument_group("measurement")
    what.add_argument("--minutes", type=float, default=30.0, help="how long")
    what.add_argument("--concurrency", type=int, default=8, help="users at once")
    what.add_argument("--disconnects", type=float, default=0.15, help="share of requests whose client hangs up")
    what.add_argument("--probe-every", type=float, default=60.0, metavar="S", help="greedy probe under load")
    what.add_argument("--memory-limit", type=float, default=0.05, help="most growth after the warm-up, as a share")
    what.add_argument("--seed", type=int, default=0, help="of the mix of requests")
    what.add_argument("--out", type=Path, help="folder of the report (default: under benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    """Soak and report; 0 when nothing failed, leaked, grew or changed, 1 otherwise, 130 after Ctrl-C."""
    import torch

    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory(prefix="domino-soak-") as workspace:
        arm = _arm(args, gpu, Path(workspace))
        out = results_folder("soak", args.out)
        with Fleet(Path(workspace), together=False) as fleet:
            try:
                url, _fresh = fleet.ready(arm)
            except ServerFailed as error:
                logger.error("%s", without_folders(str(error)))
                return 1
            group = os.getpgid(args.pid) if args.pid else fleet.process_group(arm)
            users, found = soak(url, args, group)
            obituary = fleet.obituary(arm)
            if obituary is not None:
                found.problems.append(obituary)
    return _report(out, arm, args, users, found)


def soak(url: str, args: argparse.Namespace, group: int | None) -> tuple[Users, Soak]:
    """Load a server for ``args.minutes`` and look at it before, meanwhile and after."""
    found = Soak(args.minutes)
    client = Client(url)
    model = client.served_model()
    client.flush_cache()
    first = probe(client, model)
    found.used_tokens.append(wait_until_idle(client).used_tokens)
    users = Users(client, model, args.concurrency, args.disconnects, args.seed)
    prober = Prober(client, model, args.probe_every, first, found)
    users.start()
    prober.start()
    try:
        _watch(args, group, users, found)
    except KeyboardInterrupt:
        found.interrupted = True
        logger.warning("Interrupted: checking what can be checked.")
    prober.stop()
    if not users.stop():
        found.problems.append("some requests never ended")
    found.counts = users.counts()
    _look_after(client, model, first, found)
    found.memory_growth = memory_growth(found.memory)
    _judge(found, args.memory_limit)
    return users, found


def _watch(args: argparse.Namespace, group: int | None, users: Users, found: Soak) -> None:
    began, length = time.monotonic(), 60 * args.minutes
    with tqdm(total=round(length), unit="s", desc="soak", mininterval=5) as bar:
        while (passed := time.monotonic() - began) < length:
            time.sleep(min(2.0, length - passed))
            if group is not None:
                found.memory.append((time.monotonic() - began, group_memory(group)))
            bar.set_postfix(users.counts(), refresh=False)
            bar.update(min(round(time.monotonic() - began), bar.total) - bar.n)


class Prober:
    """Asks for the greedy probe now and then while the server is under load; a thread, because an answer takes time."""

    def __init__(self, client: Client, model: str, every_s: float, first: list[str], found: Soak):
        self.client, self.model, self.every_s, self.first, self.found = client, model, every_s, first, found
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience_s: float = 600.0) -> None:
        self._stop.set()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while not self._stop.wait(self.every_s):
            try:
                different = probe(self.client, self.model) != self.first
            except (httpx.HTTPError, KeyError) as error:
                self.found.problems.append(f"probe under load: {error}")
                continue
            self.found.probes_under_load += 1
            self.found.probes_under_load_different += different


def _look_after(client: Client, model: str, first: list[str], found: Soak) -> None:
    try:
        idle = wait_until_idle(client)
        found.used_tokens.append(idle.used_tokens)
        found.seconds_to_idle = idle.seconds_to_idle
        client.flush_cache()
        found.probes_first_last_equal = probe(client, model) == first
    except (httpx.HTTPError, NotIdle, KeyError) as error:
        found.problems.append(f"after the load: {error}")


def _judge(found: Soak, memory_limit: float) -> None:
    if found.counts.get(FAILED):
        found.problems.append(f"{found.counts[FAILED]} requests failed")
    if len(set(found.used_tokens)) > 1:
        found.problems.append(f"KV slots leaked: idle with {found.used_tokens[0]} before, {found.used_tokens[1]} after")
    if found.probes_first_last_equal is False:
        found.problems.append("the greedy probe's answer changed from first to last")
    if found.memory_growth is not None and found.memory_growth > memory_limit:
        found.problems.append(f"memory grew by {100 * found.memory_growth:.1f}% after the warm-up")


def _arm(args: argparse.Namespace, gpu: bool, workspace: Path) -> Arm:
    if args.url is not None:
        return Arm(DOMINO, url=args.url.rstrip("/"))
    common = common_flags(args, gpu)
    if not gpu and CPU_FLAGS[0] not in common:
        common += CPU_FLAGS
    return build_arms([DOMINO], common=common, drafter=drafter_folder(args), workspace=workspace)[0]


def _report(out: Path, arm: Arm, args: argparse.Namespace, users: Users, found: Soak) -> int:
    from domino_sglang.bench.soak.report import write_report

    settings = SoakSettings(
        server=without_folders(arm.url or "python -m sglang.launch_server " + " ".join(arm.flags)),
        concurrency=args.concurrency,
        disconnects=args.disconnects,
    )
    rows.begin(out / "rows.jsonl", settings)
    rows.append(out / "rows.jsonl", found, *users.rows)
    logger.info("%s", write_report(out))
    for problem in found.problems:
        logger.error("%s", problem)
    if found.interrupted:
        return INTERRUPTED
    return 1 if found.problems else 0
