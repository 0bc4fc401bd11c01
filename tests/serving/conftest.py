"""Real servers, started once for all tests: DOMINO twice (each scheduler), plain decoding once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from domino_sglang.demo import prepare_target
from tests.serving.servers import ARMS, Server, launched, running
from tests.support.client import Client
from tests.support.fork_server import ForkServer


@pytest.fixture(scope="session")
def target() -> Path:
    return prepare_target()


@pytest.fixture(scope="session")
def servers(target, tmp_path_factory) -> Iterator[dict[str, Server]]:
    """``domino``: overlap scheduler, a KV pool too small for a full batch, the packaged drafter where there is one.
    ``sync``: no overlap, block verification, room for long prompts. ``ar``: plain decoding.
    """
    found = running()
    missing = [name for name in ARMS if name not in found]
    if not missing:
        yield found
        return
    with launched(target, tmp_path_factory.mktemp("servers"), missing) as processes:
        for process in processes.values():
            process.wait_until_ready()
        yield found | {name: Server(name, process.url, process.log) for name, process in processes.items()}


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory) -> Iterator[ForkServer]:
    """SGLang without a server: arguments resolved, or a scheduler run, each in a process of its own."""
    server = ForkServer(tmp_path_factory.mktemp("fork") / "fork_server.log")
    yield server
    server.close()


@pytest.fixture(scope="session")
def interpreting_server(tmp_path_factory) -> Iterator[ForkServer]:
    """The same with Triton's kernels in its interpreter, and recurrent states in float32 like everything else."""
    log = tmp_path_factory.mktemp("fork") / "interpreting_server.log"
    server = ForkServer(log, TRITON_INTERPRET="1", SGLANG_MAMBA_CONV_DTYPE="float32")
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
    asked = item.funcargs.get("servers") if hasattr(item, "funcargs") else None
    if report.when == "call" and report.failed and asked:
        report.sections += [(f"{name}: {server.log}", server.log_tail()) for name, server in asked.items()]
    return report
