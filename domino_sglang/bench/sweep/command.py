"""``domino-sglang bench sweep``: arms side by side over a range of concurrency, on the user's own hardware."""

from __future__ import annotations

import argparse
import logging
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domino_sglang.bench.common import rows, server_metrics
from domino_sglang.bench.common.arms import BASE, DFLASH, DOMINO, PLAIN, Arm, ArmError, build_arms
from domino_sglang.bench.common.fleet import Fleet
from domino_sglang.bench.common.prompt_options import add_prompt_arguments, prompts_by_workload
from domino_sglang.bench.common.server_options import add_server_arguments, common_flags, drafter_folder
from domino_sglang.bench.sweep import load
from domino_sglang.bench.sweep.crosscheck import cross_check
from domino_sglang.bench.sweep.load import Interrupted, Load, LoadError
from domino_sglang.bench.sweep.plan import Progress, Step, plan
from domino_sglang.bench.sweep.point import Point, summarise
from domino_sglang.bench.sweep.rows import (
    CrashRow,
    PointRow,
    RequestRow,
    SweepRequestRow,
    SweepSettings,
)
from domino_sglang.measure.provenance import results_folder, without_folders
from domino_sglang.measure.server_process import ServerFailed
from domino_sglang.measure.workloads import Prompt, take

logger = logging.getLogger(__name__)

MIN_REQUESTS_PER_USER = 5
MAX_CRASHES = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Settings:
    """What a sweep measures, apart from its arms."""

    prompts: dict[str, tuple[Prompt, ...]]
    temperatures: tuple[float, ...]
    concurrencies: tuple[int, ...]
    repetitions: int
    requests_per_user: int
    max_tokens: int
    ignore_eos: bool
    together: bool
    keep_cache: bool = False
    point_timeout_s: float = 3600.0
    cross_check_arm: str | None = None

    @property
    def points(self) -> list[Point]:
        return [
            Point(workload, temperature, concurrency)
            for workload in self.prompts
            for temperature in self.temperatures
            for concurrency in self.concurrencies
        ]

    def load(self, point: Point, repetition: int) -> Load:
        """The requests of a point: the same for every arm, others for every repetition."""
        count = self.requests_per_user * point.concurrency
        return Load(
            prompts=take(self.prompts[point.workload], count, repetition * count),
            users=point.concurrency,
            max_tokens=self.max_tokens,
            temperature=point.temperature,
            ignore_eos=self.ignore_eos,
            timeout_s=self.point_timeout_s,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_server_arguments(parser)
    arms = parser.add_argument_group("arms")
    arms.add_argument(
        "--arms",
        metavar="NAMES",
        help=f"comma-separated, of {PLAIN}, {BASE} (the drafter with its head off), {DOMINO}, {DFLASH} (SGLang's own, "
        f"GPU only); default: all that can run here, or none beside --url alone",
    )
    arms.add_argument("--arm", action="append", default=[], metavar="NAME='FLAGS'", help="a further arm's server flags")
    arms.add_argument("--url", action="append", default=[], metavar="NAME=URL", help="an arm that is up already")
    add_prompt_arguments(parser, default=("mixed",))
    what = parser.add_argument_group("measurement")
    what.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0], help="0 is greedy")
    what.add_argument("--concurrency", type=int, nargs="+", help="users at once (default: 1 2 4 8; to 64 on a GPU)")
    what.add_argument(
        "--servers",
        choices=("one", "all"),
        help="up at a time; all takes the arms in turn at every point (default: all on a CPU, one on a GPU)",
    )
    what.add_argument("--repetitions", type=int, default=3, help="of every point, interleaved")
    what.add_argument("--requests-per-user", type=int, default=MIN_REQUESTS_PER_USER, help="at each point")
    what.add_argument("--max-tokens", type=int, default=128, help="longest answer, in tokens")
    what.add_argument("--ignore-eos", action="store_true", help="answers always have --max-tokens tokens")
    what.add_argument("--keep-cache", action="store_true", help="do not flush the prefix cache before each point")
    what.add_argument("--point-timeout", type=float, default=3600.0, metavar="S", help="then a point is cut short")
    what.add_argument("--cross-check", metavar="ARM", help="arm that sglang.bench_serving checks ('none': no check)")
    what.add_argument("--out", type=Path, help="folder of the report (default: under benchmarks/results)")


def run(args: argparse.Namespace) -> int:
    """Measure and report; 0 when every point of every arm was measured, 1 otherwise, 130 after Ctrl-C."""
    import torch

    gpu = torch.cuda.is_available()
    # Before any server starts: what cannot work should say so at once.
    prompts = prompts_by_workload(args)
    with tempfile.TemporaryDirectory(prefix="domino-sweep-") as workspace:
        arms = _arms(args, gpu, Path(workspace))
        settings = Settings(
            prompts=prompts,
            temperatures=tuple(args.temperature),
            concurrencies=tuple(args.concurrency or ((1, 2, 4, 8, 16, 32, 64) if gpu else (1, 2, 4, 8))),
            repetitions=args.repetitions,
            requests_per_user=args.requests_per_user,
            max_tokens=args.max_tokens,
            ignore_eos=args.ignore_eos,
            # Idle servers on a CPU sleep; GPUs have room for one.
            together=args.servers == "all" if args.servers else not gpu,
            keep_cache=args.keep_cache,
            point_timeout_s=args.point_timeout,
            cross_check_arm=_cross_checked(args.cross_check, arms),
        )
        out = results_folder("sweep", args.out)
        _write_head(out, arms, settings)
        with Fleet(Path(workspace), settings.together) as fleet:
            status = Sweep(arms, settings, fleet, out / "rows.jsonl", out / "requests.jsonl").run()
    from domino_sglang.bench.sweep.report import write_report

    report = write_report(out)
    logger.info("%s", report)
    return status


@dataclass
class Sweep:
    """A sweep under way.

    Args:
        rows_file: takes points, crashes and the cross-check, as they come.
        requests_file: takes every request.
    """

    arms: list[Arm]
    settings: Settings
    fleet: Fleet
    rows_file: Path
    requests_file: Path
    measure: Callable[[str, Load], list[RequestRow]] = load.run
    crashes: dict[str, int] = field(default_factory=dict)
    _checked: bool = False
    _warm: set[str] = field(default_factory=set)

    def run(self) -> int:
        """The exit status; see :func:`run`."""
        steps = plan(self.arms, self.settings.points, self.settings.repetitions, self.settings.together)
        progress = Progress(steps)
        whole = True
        try:
            for step in steps:
                began = time.monotonic()
                logger.info("%s %s, %s, repetition %d", progress.text(), step.arm.name, step.point, step.repetition + 1)
                if self._measure(step):
                    progress.done(step, time.monotonic() - began)
                else:
                    whole = False
                    progress.skipped(step)
                self._check(step)
        except KeyboardInterrupt:
            logger.warning("Interrupted: keeping what was measured.")
            return INTERRUPTED
        return 0 if whole else 1

    def _measure(self, step: Step) -> bool:
        url = self._server(step)
        if url is None:
            return False
        asked = self.settings.load(step.point, step.repetition)
        if not self.settings.keep_cache:
            load.flush_cache(url)
        before = server_metrics.scrape(url)
        try:
            requests = self.measure(url, asked)
        except LoadError as error:
            self._crashed(step, str(error))
            return False
        except Interrupted as interruption:
            self._record(step, interruption.answered, asked, None)
            raise
        decoding = server_metrics.between(before, server_metrics.scrape(url))
        row = self._record(step, requests, asked, decoding)
        reason = self.fleet.obituary(step.arm) if row.failures else None
        if reason is not None:
            self._crashed(step, reason)
            return False
        return row.complete

    def _server(self, step: Step) -> str | None:
        arm = step.arm
        if self.crashes.get(arm.name, 0) >= MAX_CRASHES:
            return None
        try:
            url, fresh = self.fleet.ready(arm)
            if fresh or arm.name not in self._warm:
                self._warm_up(url)
                self._warm.add(arm.name)
            return url
        except (ServerFailed, LoadError) as error:
            self._crashed(step, str(error))
            return None

    def _warm_up(self, url: str) -> None:
        """Bring a new server to speed at the highest concurrency; nothing of it is kept."""
        users = max(self.settings.concurrencies)
        for prompts in self.settings.prompts.values():
            for temperature in self.settings.temperatures:
                self.measure(url, Load(take(prompts, users), users, min(16, self.settings.max_tokens), temperature))

    def _record(self, step: Step, requests, asked: Load, decoding) -> PointRow:
        row = summarise(step.arm.name, step.point, step.repetition, requests, len(asked.prompts), decoding)
        rows.append(self.rows_file, row)
        place: dict[str, Any] = {
            "arm": step.arm.name,
            "point": step.point.workload,
            "temperature": step.point.temperature,
            "concurrency": step.point.concurrency,
            "repetition": step.repetition,
        }
        rows.append(self.requests_file, *(SweepRequestRow(**vars(request), **place) for request in requests))
        logger.info(
            "    %.1f tokens/s, TTFT %.0f ms, TPOT %.1f ms (p50)%s%s",
            row.tokens_per_s,
            1e3 * row.ttft["p50"],
            1e3 * row.tpot["p50"],
            "" if row.acceptance_length is None else f", acceptance length {row.acceptance_length:.2f}",
            f", {row.failures} FAILED" if row.failures else "",
        )
        return row

    def _crashed(self, step: Step, reason: str) -> None:
        reason = without_folders(reason)
        logger.error("%s crashed: %s", step.arm.name, reason)
        during = f"{step.point}, repetition {step.repetition + 1}"
        rows.append(self.rows_file, CrashRow(step.arm.name, during, reason))
        self.crashes[step.arm.name] = self.crashes.get(step.arm.name, 0) + 1
        if step.arm.url is None:
            self.fleet.drop(step.arm)
        if self.crashes[step.arm.name] == MAX_CRASHES:
            logger.error("%s is left out from here on.", step.arm.name)

    def _check(self, step: Step) -> None:
        """Cross-check once, at the arm's middle concurrency, right after that point was measured."""
        settings = self.settings
        middle = sorted(settings.concurrencies)[len(settings.concurrencies) // 2]
        wanted = step.arm.name == settings.cross_check_arm and step.point.concurrency == middle
        if self._checked or not wanted or self.crashes.get(step.arm.name):
            return
        self._checked = True
        logger.info("Cross-check with sglang.bench_serving: %s, %s", step.arm.name, step.point)
        url, _fresh = self.fleet.ready(step.arm)
        asked = settings.load(step.point, step.repetition)
        row = cross_check(step.arm.name, url, step.point, asked, settings.repetitions)
        rows.append(self.rows_file, row)
        logger.info("    %s", row.error or f"tokens/s differ by {100 * row.difference:+.1f}%")


def _arms(args: argparse.Namespace, gpu: bool, workspace: Path) -> list[Arm]:
    if args.arms is not None:
        names = [name.strip() for name in args.arms.split(",") if name.strip()]
    else:
        own = [PLAIN, BASE, DOMINO, *([DFLASH] if gpu else [])]
        names = [] if args.url and not args.arm else own
    common: tuple[str, ...] = ()
    drafter = None
    if names or args.arm:
        common = common_flags(args, gpu)
    if any(name != PLAIN for name in names):
        drafter = drafter_folder(args)
    return build_arms(names, common=common, drafter=drafter, workspace=workspace, extra=args.arm, urls=args.url)


def _cross_checked(asked: str | None, arms: list[Arm]) -> str | None:
    names = [arm.name for arm in arms]
    if asked == "none":
        return None
    if asked is not None and asked not in names:
        raise ArmError(f"--cross-check names {asked!r}, which is none of the arms {names}")
    return asked or (DOMINO if DOMINO in names else names[-1])


def _write_head(out: Path, arms: list[Arm], settings: Settings) -> None:
    asked = SweepSettings(
        arms={arm.name: without_folders(arm.url or shlex.join(arm.flags)) for arm in arms},
        workloads=[*settings.prompts],
        temperatures=[*settings.temperatures],
        concurrencies=[*settings.concurrencies],
        repetitions=settings.repetitions,
        requests_per_user=settings.requests_per_user,
        max_tokens=settings.max_tokens,
        servers_up_together=settings.together,
    )
    rows.begin(out / "rows.jsonl", asked)
    (out / "requests.jsonl").unlink(missing_ok=True)
