"""The servers of a sweep: started when first needed, kept or exchanged, and known to be dead when they are."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from domino_sglang.bench.common.arms import Arm
from domino_sglang.measure.client import Client
from domino_sglang.measure.provenance import without_folders
from domino_sglang.measure.server_process import ServerFailed, ServerProcess
from domino_sglang.names import STEP_TIMER

logger = logging.getLogger(__name__)


class Server(Protocol):
    """What the fleet asks of a server process (``ServerProcess`` is one)."""

    url: str

    def start(self) -> Any: ...

    def wait_until_ready(self, timeout_s: float, tick: Callable[[float], None] | None = None) -> Any: ...

    def log_tail(self, lines: int = 30) -> str: ...

    def is_alive(self) -> bool: ...

    def stop(self) -> None: ...


class BenchServer(ServerProcess):
    """A server that counts and, where it is DOMINO's, times its steps."""

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


def launch(arm: Arm, logs: Path) -> Server:
    """An SGLang server for an arm, not yet started."""
    return BenchServer([*arm.flags, "--enable-metrics"], logs / f"{arm.name}.log", env={STEP_TIMER: "1"})


class Fleet:
    """Gives each arm a server, for use in a ``with`` statement.

    Args:
        together: keep every server once started; otherwise one at a time.
    """

    def __init__(
        self,
        logs: Path,
        together: bool,
        launch: Callable[[Arm, Path], Server] = launch,
        start_timeout_s: float = 900.0,
    ):
        self.logs, self.together, self.launch, self.start_timeout_s = logs, together, launch, start_timeout_s
        self._servers: dict[str, Server] = {}

    def ready(self, arm: Arm) -> tuple[str, bool]:
        """URL of the arm's server, up and healthy, and whether it was started just now.

        Raises:
            ServerFailed: it did not come up.
        """
        if arm.url is not None:
            if not answers(arm.url):
                raise ServerFailed(f"no server answers at {arm.url}")
            return arm.url, False
        server = self._servers.get(arm.name)
        if server is not None:
            return server.url, False
        if not self.together:
            self.stop()
        server = self._servers[arm.name] = self.launch(arm, self.logs)
        logger.info("%s: python -m sglang.launch_server %s", arm.name, " ".join(arm.flags))
        try:
            server.start()
            with tqdm(desc=f"{arm.name}: starting SGLang", bar_format="{desc} {elapsed}", leave=False) as bar:
                server.wait_until_ready(self.start_timeout_s, tick=lambda _passed: bar.refresh())
        except BaseException:
            self.drop(arm)
            raise
        return server.url, True

    def obituary(self, arm: Arm) -> str | None:
        """Why the arm's server no longer serves; None while it does."""
        server = self._servers.get(arm.name)
        if server is not None:
            if server.is_alive():
                return None
            return without_folders(f"the server ended; the end of its log:\n{server.log_tail()}")
        if arm.url is not None and answers(arm.url):
            return None
        return "no server answers"

    def process_group(self, arm: Arm) -> int | None:
        """Id of the process group of the arm's server; None for a server that was up already."""
        process = getattr(self._servers.get(arm.name), "process", None)
        return None if process is None else process.pid

    def drop(self, arm: Arm) -> None:
        """Stop the arm's server; the next :meth:`ready` starts another."""
        server = self._servers.pop(arm.name, None)
        if server is not None:
            server.stop()

    def stop(self) -> None:
        for server in self._servers.values():
            with contextlib.suppress(OSError):
                server.stop()
        self._servers.clear()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_error) -> None:
        self.stop()


def answers(url: str) -> bool:
    """Whether a server lists its models."""
    with Client(url) as client:
        return client.answers()
