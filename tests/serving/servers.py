"""The servers of this folder as users start them: DOMINO under each scheduler, plain decoding as the reference."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from domino_sglang.demo import packaged_drafter
from domino_sglang.errors import UserError
from domino_sglang.measure import client as measure
from domino_sglang.measure.server_process import START_TIMEOUT_S, ServerProcess
from tests.support.client import Client, Reference
from tests.support.memory_drafter import write_memory_drafter

MODEL = "SmolLM2-135M-Instruct"
CONTINUATIONS = Path(__file__).parent / "data" / "continuations.json"
ARMS = ("domino", "sync", "ar")
PREFILL_CHUNK = 256
# Room for less than a full batch, so that requests are retracted; and room for the longest prompt.
SMALL_POOL = 1024
LARGE_POOL = 10000
# Servers that already run, e.g. "domino=http://127.0.0.1:32002@/tmp/domino.log ar=...".
RUNNING = "DOMINO_TEST_SERVERS"


@dataclass(frozen=True)
class Server:
    """A running server: how to ask it, and where it logs."""

    name: str
    url: str
    log: Path

    @cached_property
    def client(self) -> Client:
        """Waits until the server answers; so nothing asks a server before a test does."""
        self.wait_until_ready()
        return (Reference if self.name == "ar" else Client)(self.url, MODEL)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < deadline, f"no answer from {self.url}:\n{self.log_tail()}"
            time.sleep(0.5)

    def _answers(self) -> bool:
        return measure.Client(self.url).answers("/health_generate", timeout_s=60)

    def log_tail(self, lines: int = 15) -> str:
        # The line with all server arguments alone has 15,000 characters.
        return "\n".join(line[:400] for line in self.log.read_text(errors="replace").splitlines()[-lines:])

    def poll(self) -> int | None:
        """As of a process: None while it runs."""
        return None if self._answers() else 1


def running() -> dict[str, Server]:
    """Those named in ``DOMINO_TEST_SERVERS``."""
    found = {}
    for pair in os.environ.get(RUNNING, "").split():
        name, _, where = pair.partition("=")
        url, _, log = where.partition("@")
        found[name] = Server(name, url, Path(log or os.devnull))
    return found


@contextmanager
def launched(target: Path, folder: Path, names: Sequence[str] = ARMS) -> Iterator[dict[str, ServerProcess]]:
    """Start servers, all at once and without waiting for any; logs and drafter are written below ``folder``."""
    # Knows by heart how plain decoding continues the sample of prompts in test_exactness.py.
    memory_drafter = write_memory_drafter(folder / "memory", target, json.loads(CONTINUATIONS.read_text()))
    flags = _flags(memory_drafter)
    servers = {
        name: ServerProcess([*_common(target), *flags[name]], folder / f"{name}.log", env={"HF_HUB_OFFLINE": "1"})
        for name in names
    }
    try:
        for server in servers.values():
            server.start()
        yield servers
    finally:
        for server in servers.values():
            server.stop()


def _flags(memory_drafter: Path) -> dict[str, list[str]]:
    roomy = ["--max-total-tokens", str(LARGE_POOL)]
    return {
        # Blocks shorter than the packaged drafter's, which are slow on a CPU.
        "domino": [*_domino(_best_drafter(memory_drafter)), "--speculative-num-draft-tokens", "8", *_cramped()],
        "sync": [
            *_domino(memory_drafter),
            *roomy,
            *("--disable-overlap-schedule", "--speculative-use-block-verification"),
        ],
        # Under the overlap scheduler, SGLang's plain decoding applies penalties one token late.
        "ar": [*roomy, "--disable-overlap-schedule"],
    }


def _common(target: Path) -> list[str]:
    return [
        *("--model-path", str(target), "--served-model-name", MODEL),
        *("--dtype", "float32", "--enable-metrics", "--decode-log-interval", "4"),
        *("--chunked-prefill-size", str(PREFILL_CHUNK), "--max-running-requests", "16"),
        # Three servers start at once, and SGLang takes what its neighbours load meanwhile for its own weights.
        *("--mem-fraction-static", "0.8"),
    ]


def _cramped() -> list[str]:
    # Admit optimistically: retraction is what happens then.
    return ["--max-total-tokens", str(SMALL_POOL), "--schedule-conservativeness", "0.1"]


def _domino(drafter: Path) -> list[str]:
    return ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]


def _best_drafter(otherwise: Path) -> Path:
    try:
        return packaged_drafter()
    except UserError:
        return otherwise
