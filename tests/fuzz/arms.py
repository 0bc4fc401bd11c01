"""The two servers of a round, and the flags that a round is run under."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from domino_sglang.measure.server_process import ServerFailed, ServerProcess

REFUSAL = "DOMINO cannot serve: "
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
# What both are given, and the values a round may choose otherwise.
USUAL = {
    "--dtype": "float32",
    "--max-total-tokens": "8192",
    "--max-running-requests": "8",
    "--chunked-prefill-size": "256",
    "--mem-fraction-static": "0.8",
}
SHARED: dict[str, tuple[str, ...]] = {
    "--page-size": ("4", "16", "64"),
    "--chunked-prefill-size": ("64", "1000", "-1"),
    "--max-total-tokens": ("320", "640", "1024"),
    "--max-running-requests": ("1", "2", "16"),
    "--context-length": ("64", "300", "512"),
    "--schedule-policy": ("lpm", "fcfs", "random", "dfs-weight", "lof"),
    "--schedule-conservativeness": ("0.1", "0.3"),
    "--max-prefill-tokens": ("100", "512"),
    "--prefill-max-requests": ("1",),
    "--stream-interval": ("3",),
    "--grammar-backend": ("xgrammar", "llguidance", "outlines", "none"),
    "--radix-eviction-policy": ("lfu", "fifo"),
    "--disable-radix-cache": ("",),
    "--enable-mixed-chunk": ("",),
    "--enable-deterministic-inference": ("",),
    "--enable-priority-scheduling": ("",),
    "--skip-server-warmup": ("",),
    "--tokenizer-worker-num": ("2",),
    "--num-continuous-decode-steps": ("3",),
}
OURS: dict[str, tuple[str, ...]] = {
    "--disable-overlap-schedule": ("",),
    "--speculative-num-draft-tokens": ("2", "5", "8", "9", "16"),
    "--speculative-adaptive": ("",),
    "--speculative-use-block-verification": ("",),
    "--speculative-draft-window-size": ("32", "128"),
}
MOST_SHARED, MOST_OURS = 3, 2


@dataclass(frozen=True)
class Flags:
    """What a round changes: for both servers, and for DOMINO's alone."""

    shared: dict[str, str]
    ours: dict[str, str]

    def __str__(self) -> str:
        return " ".join(_argv(self.shared | self.ours)) or "(no flags)"


def draw_flags(draw: random.Random) -> Flags:
    return Flags(_some(draw, SHARED, MOST_SHARED), _some(draw, OURS, MOST_OURS))


def _some(draw: random.Random, known: dict[str, tuple[str, ...]], most: int) -> dict[str, str]:
    names = draw.sample(sorted(known), draw.randint(0, most))
    return {name: draw.choice(known[name]) for name in names}


def _argv(flags: dict[str, str]) -> list[str]:
    return [word for name, value in flags.items() for word in (name, value) if word]


class Arm(Protocol):
    """A server that can be asked, can die, and can be started again."""

    url: str

    def is_alive(self) -> bool: ...

    def restart(self) -> None: ...

    def last_words(self) -> str: ...


class ServerArm:
    """One SGLang server and the files it logs to."""

    def __init__(self, flags: Sequence[str], log: Path):
        self.server = ServerProcess(flags, log, env=ENVIRONMENT)

    @property
    def url(self) -> str:
        return self.server.url

    def is_alive(self) -> bool:
        return self.server.running.poll() is None and self.server.is_healthy()

    def start(self) -> None:
        """Raises ServerFailed when it ends instead."""
        self.server.start().wait_until_ready()

    def restart(self) -> None:
        self.server.stop()
        self.start()

    def stop(self) -> None:
        self.server.stop()

    def last_words(self) -> str:
        """The last exception in its log, or its last line."""
        lines = [line.strip() for line in self.server.log.read_text(errors="replace").splitlines() if line.strip()]
        raised = [line for line in lines if line.split(":")[0].split(".")[-1].endswith(("Error", "Exception"))]
        return (raised or lines or ["an empty log"])[-1][:300]


class Pair:
    """DOMINO and plain decoding on one target, for use in a ``with`` statement."""

    def __init__(self, target: Path, drafter: Path, flags: Flags, folder: Path):
        common = ["--model-path", str(target), "--served-model-name", "m", *_argv(USUAL | flags.shared)]
        common.append("--enable-custom-logit-processor")
        algorithm = ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]
        self.ours = ServerArm([*common, *algorithm, *_argv(flags.ours)], folder / "domino.log")
        # Under the overlap scheduler, SGLang's plain decoding applies penalties one token late.
        self.plain = ServerArm([*common, "--disable-overlap-schedule"], folder / "plain.log")

    def start(self) -> tuple[str | None, str | None]:
        """Start both at once; for each, why it did not."""
        with ThreadPoolExecutor(2) as pool:
            ours, plain = pool.map(_why_not, (self.ours, self.plain))
        return ours, plain

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_error) -> None:
        self.ours.stop()
        self.plain.stop()


def _why_not(arm: ServerArm) -> str | None:
    try:
        arm.start()
    except ServerFailed:
        log = arm.server.log.read_text(errors="replace").splitlines()
        refusals = [line for line in log if line.startswith(REFUSAL)]
        return refusals[-1] if refusals else arm.last_words()
    return None
