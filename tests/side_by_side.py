"""The whole suite on two cores: ``python -m tests.side_by_side [options of pytest]``.

Servers start, and two pytests run side by side: one asks the server ``domino`` and runs what needs no server, the other
asks the other servers, and runs kernels and training. Neither disturbs what the other measures, and both cores always
have work. When the servers have ended, a third runs what starts servers as large as a user's: beside the others they
would not fit into memory. Without this, ``pytest`` runs everything in turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from domino_sglang.measure.server_process import ServerProcess
from tests.support import environment
from tests.support.paths import ROOT


def main(options: list[str]) -> int:
    environment.settle()
    # Two threads of one server wait for each other at every operation; two servers of one thread each do not.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) // 2)))
    from domino_sglang.demo import prepare_target
    from tests.serving.servers import RUNNING, launched

    with tempfile.TemporaryDirectory(prefix="domino-tests-") as name:
        folder = Path(name)
        with launched(prepare_target(), folder) as servers, (folder / "domino.txt").open("w+") as held_back:
            os.environ[RUNNING] = " ".join(f"{name}={server.url}@{server.log}" for name, server in servers.items())
            parts = [_pytest("domino", options, held_back), _pytest("others", options, None)]
            try:
                _wait(parts, servers.values())
            finally:
                for part in parts:
                    part.kill()
                    part.wait()
                held_back.seek(0)
                sys.stdout.write(held_back.read())
    del os.environ[RUNNING]
    parts.append(_pytest("own", options, None))
    parts[-1].wait()
    return int(any(part.returncode for part in parts))


def _wait(parts: list[subprocess.Popen], servers: Iterable[ServerProcess]) -> None:
    while any(part.poll() is None for part in parts):
        for server in servers:
            if server.running.poll() is not None:
                raise RuntimeError(f"a server ended: {' '.join(server.command)}\n{server.log_tail()}")
        time.sleep(1)


def _pytest(part: str, options: list[str], output) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "pytest", "--part", part, *options], cwd=ROOT, stdout=output)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
