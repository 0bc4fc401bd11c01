"""One point of load: locust in a process of its own, and the rows it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from domino_sglang.bench.common import rows
from domino_sglang.bench.sweep.rows import RequestRow
from domino_sglang.measure.client import Client
from domino_sglang.measure.workloads import Prompt

# A path, because locust reads files; importing it here would patch this process for gevent.
USERS = Path(__file__).parent / "locust_users.py"


class LoadError(RuntimeError):
    """Locust itself failed: the end of what it printed."""


@dataclass(frozen=True)
class Load:
    """What one point asks.

    Attributes:
        users: how many at once, each with one request at a time.
        timeout_s: after which the point is cut short.
    """

    prompts: Sequence[Prompt]
    users: int
    max_tokens: int
    temperature: float
    ignore_eos: bool = False
    timeout_s: float = 3600.0

    def write(self, file: Path) -> None:
        """The requests, in the format that ``sglang.bench_serving --dataset-name openai`` reads too."""
        with file.open("w", encoding="utf-8") as stream:
            for prompt in self.prompts:
                body = prompt.body(self.max_tokens, self.temperature) | {"workload": prompt.workload}
                # Without a usage, SGLang's benchmark counts max_tokens for every answer, however short.
                body["stream_options"] = {"include_usage": True}
                if self.ignore_eos:
                    body["ignore_eos"] = True
                stream.write(json.dumps(body, ensure_ascii=False) + "\n")


def run(url: str, load: Load) -> list[RequestRow]:
    """Send every prompt once, ``load.users`` at a time; the rows of what was answered before any interruption.

    Raises:
        LoadError: locust did not run.
    """
    with tempfile.TemporaryDirectory(prefix="domino-load-") as folder:
        asked, answered = Path(folder) / "asked.jsonl", Path(folder) / "answered.jsonl"
        log = Path(folder) / "locust.log"
        load.write(asked)
        command = [
            *(sys.executable, "-m", "locust", "-f", str(USERS), "--headless", "--only-summary"),
            *("--host", url, "-u", str(load.users), "-r", str(load.users), "--tags", "file"),
            *("--prompts", str(asked), "--requests-out", str(answered), "--loglevel", "ERROR"),
            *("--exit-code-on-error", "0"),
        ]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder
            )
            try:
                process.wait(load.timeout_s)
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt as interruption:
                _end(process)
                raise Interrupted(_read(answered)) from interruption
            finally:
                _end(process)
        found = _read(answered)
        if not found:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise LoadError(f"locust answered no request (status {process.returncode}):\n{tail}")
        return found


class Interrupted(KeyboardInterrupt):
    """Ctrl-C within a point: what had been answered until then."""

    def __init__(self, answered: list[RequestRow]):
        super().__init__()
        self.answered = answered


def flush_cache(url: str) -> bool:
    """Forget cached prefixes, so that every arm reads its prompts; whether the server did."""
    try:
        with Client(url) as client:
            client.flush_cache()
    except httpx.HTTPError:
        return False
    return True


def _read(file: Path) -> list[RequestRow]:
    return rows.read(file, RequestRow) if file.is_file() else []


def _end(process: subprocess.Popen) -> None:
    for sig in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, sig)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
