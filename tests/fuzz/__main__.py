"""``python -m tests.fuzz --minutes n --seed s``: exit status 1 when anything was found.

A quarter of the time goes to checkpoints; then come rounds of servers, the first under no flags, each of the others
under flags drawn anew. The same seed draws the same flags, calls and checkpoints, as far as the time goes.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.support import environment

CHECKPOINTS_SHARE = 0.25
CHECKPOINTS_AT_ONCE = 20


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("checkpoints", "servers"), help="leave the other out")
    options = parser.parse_args(arguments)
    environment.settle()
    # The servers are in sessions of their own: they end with the search only if it leaves in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    from tests.fuzz.hunting import Findings

    findings = Findings(lambda line: print(line, flush=True))
    start, end = time.monotonic(), time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="domino-fuzz-") as name:
        if options.only != "servers":
            share = 1.0 if options.only else CHECKPOINTS_SHARE
            _checkpoints(Path(name), options.seed, start + share * (end - start), findings)
        if options.only != "checkpoints":
            from tests.fuzz.rounds import run_rounds

            run_rounds(Path(name), options.seed, end, findings)
    seen = "\n".join(f"{failure.count:5d}x {failure.what} {sorted(failure.features)}" for failure in findings.found)
    print(f"{findings.tried} tried, {len(findings.found)} found (seed {options.seed})\n{seen}")
    return int(bool(findings.found))


def _checkpoints(folder: Path, seed: int, until: float, findings) -> None:
    from tests.fuzz.checkpoints import Checkpoints
    from tests.support.fork_server import ForkServer

    server = ForkServer(folder / "fork_server.log")
    try:
        search, number = Checkpoints(folder, server, findings), 0
        while time.monotonic() < until:
            search.run(1000 * seed + number, until, CHECKPOINTS_AT_ONCE)
            number += 1
    finally:
        server.close()


if __name__ == "__main__":
    sys.exit(main())
