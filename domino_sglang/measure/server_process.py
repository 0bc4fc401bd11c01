"""A server run as users run it, ``python -m sglang.launch_server``, watched from start to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from domino_sglang.errors import UserError
from domino_sglang.measure.client import Client

START_TIMEOUT_S = 600.0


class ServerFailed(UserError, RuntimeError):
    """A server that did not come up, or died: its exit status and the end of its log."""


def free_port() -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """One SGLang server in a process group of its own, for use in a ``with`` statement.

    Args:
        flags: command-line flags after ``python -m sglang.launch_server``; host and port are added.
        log: file that takes the server's output.
        port: None takes a free one.
        env: added to this process's environment.
    """

    def __init__(
        self, flags: Sequence[str], log: str | Path, port: int | None = None, env: dict[str, str] | None = None
    ):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url)
        self.log = Path(log)
        self.command = [
            *(sys.executable, "-m", "sglang.launch_server", *flags),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        ]
        self.env = env or {}
        self.process: subprocess.Popen | None = None
        self.start_time_s = 0.0

    def start(self) -> ServerProcess:
        """Launch without waiting."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                self.command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | self.env,
                start_new_session=True,
            )
        self._launched = time.monotonic()
        return self

    def wait_until_ready(
        self, timeout_s: float = START_TIMEOUT_S, tick: Callable[[float], None] | None = None
    ) -> ServerProcess:
        """Wait for the first answered health check; ``tick`` is called about once a second with the seconds passed.

        Raises:
            ServerFailed: the process ended, or time ran out.
        """
        while not self.is_healthy():
            passed = time.monotonic() - self._launched
            status = self.running.poll()
            if status is not None:
                raise ServerFailed(f"the server ended with status {status}:\n{self.log_tail()}")
            if passed > timeout_s:
                self.stop()
                raise ServerFailed(f"the server did not answer within {timeout_s:.0f} s:\n{self.log_tail()}")
            if tick is not None:
                tick(passed)
            time.sleep(1)
        self.start_time_s = time.monotonic() - self._launched
        return self

    @property
    def running(self) -> subprocess.Popen:
        """The launched process.

        Raises:
            RuntimeError: ``start`` has not been called.
        """
        if self.process is None:
            raise RuntimeError("the server has not been started: call start() first")
        return self.process

    def is_healthy(self) -> bool:
        return self.client.answers("/health_generate")

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """End the whole process group: SGLang's scheduler and detokenizer too."""
        if self.process is None:
            return
        for sig, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            try:
                os.killpg(self.process.pid, sig)
            except ProcessLookupError:
                break
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        # The group may outlive its leader.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self) -> ServerProcess:
        return self.start() if self.process is None else self

    def __exit__(self, *_error) -> None:
        self.stop()
