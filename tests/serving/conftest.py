"""Real servers, started once for all tests: DOMINO twice (each scheduler), plain decoding once."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from domino_sglang.demo import packaged_drafter, prepare_target
from domino_sglang.server_process import ServerProcess
from tests.support.client import Client
from tests.support.fork_server import ForkServer
from tests.support.memory_drafter import write_memory_drafter

MODEL = "SmolLM2-135M-Instruct"
CONTINUATIONS = Path(__file__).parent / "data" / "continuations.json"
ARMS = ("domino", "sync", "ar")
PREFILL_CHUNK = 256
# Room for less than a full batch, so that requests are retracted; and room for the longest prompt.
SMALL_POOL = 1024
LARGE_POOL = 10000
# For development: servers that already run, e.g. "domino=http://127.0.0.1:32002@/tmp/domino.log ar=...".
RUNNING = "DOMINO_TEST_SERVERS"


@dataclass(frozen=True)
class Server:
    """A running server: how to ask it, and where it logs.

    Attributes:
        process: None for a server named in ``DOMINO_TEST_SERVERS``.
    """

    client: Client
    log: Path
    process: subprocess.Popen | None

    def log_tail(self, lines: int = 15) -> str:
        # The line with all server arguments alone has 15,000 characters.
        return "\n".join(line[:400] for line in self.log.read_text(errors="replace").splitlines()[-lines:])


@pytest.fixture(scope="session")
def target() -> Path:
    return prepare_target()


@pytest.fixture(scope="session")
def memory_drafter(target, tmp_path_factory) -> Path:
    """Knows by heart how plain decoding continues the sample of prompts in test_exactness.py."""
    return write_memory_drafter(
        tmp_path_factory.mktemp("memory") / "drafter", target, json.loads(CONTINUATIONS.read_text())
    )


@pytest.fixture(scope="session")
def servers(request, tmp_path_factory) -> Iterator[dict[str, Server]]:
    """``domino``: overlap scheduler, a KV pool too small for a full batch, the packaged drafter where there is one.
    ``sync``: no overlap, block verification, room for long prompts. ``ar``: plain decoding.
    """
    running = {name: _running(where) for name, where in _pairs(os.environ.get(RUNNING, ""))}
    logs = tmp_path_factory.mktemp("logs")
    launched = {}
    if missing := [name for name in ARMS if name not in running]:
        target = request.getfixturevalue("target")
        flags = _flags(request.getfixturevalue("memory_drafter"))
        launched = {
            name: ServerProcess([*_common(target), *flags[name]], logs / f"{name}.log", env={"HF_HUB_OFFLINE": "1"})
            for name in missing
        }
    try:
        for process in launched.values():
            process.start()
        for process in launched.values():
            process.wait_until_ready()
        yield running | {
            name: Server(Client(process.url, MODEL), process.log, process.process) for name, process in launched.items()
        }
    finally:
        for process in launched.values():
            process.stop()


def _pairs(text: str) -> list[list[str]]:
    return [pair.split("=", 1) for pair in text.split()]


def _running(where: str) -> Server:
    url, _, log = where.partition("@")
    return Server(Client(url, MODEL), Path(log or os.devnull), None)


def _flags(memory_drafter: Path) -> dict[str, list[str]]:
    roomy = ["--max-total-tokens", str(LARGE_POOL)]
    return {
        "domino": [*_domino(_best_drafter(memory_drafter)), *_cramped()],
        "sync": [
            *_domino(memory_drafter),
            *roomy,
            *("--disable-overlap-schedule", "--speculative-use-block-verification", "--enable-return-hidden-states"),
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
    return ["--max-total-tokens", str(SMALL_POOL), "--schedule-conservativeness", "0.3"]


def _domino(drafter: Path) -> list[str]:
    return ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]


def _best_drafter(otherwise: Path) -> Path:
    try:
        return packaged_drafter()
    except FileNotFoundError:
        return otherwise


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory) -> Iterator[ForkServer]:
    """SGLang without a server: arguments resolved, or a scheduler run, each in a process of its own."""
    server = ForkServer(tmp_path_factory.mktemp("fork") / "fork_server.log")
    yield server
    server.close()


@pytest.fixture(scope="session")
def domino(servers) -> Client:
    return servers["domino"].client


@pytest.fixture(scope="session")
def sync(servers) -> Client:
    return servers["sync"].client


@pytest.fixture(scope="session")
def ar(servers) -> Client:
    return servers["ar"].client


@pytest.fixture(params=["domino", "sync"])
def each_domino(request, servers) -> Client:
    """One after the other: DOMINO under the overlap scheduler and without it."""
    return servers[request.param].client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    running = item.funcargs.get("servers") if hasattr(item, "funcargs") else None
    if report.when == "call" and report.failed and running:
        report.sections += [(f"{name}: {server.log}", server.log_tail()) for name, server in running.items()]
    return report
