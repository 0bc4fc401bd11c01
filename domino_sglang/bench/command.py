"""``domino-sglang bench sweep | accept | exactness | soak``."""

from __future__ import annotations

import argparse
import importlib

COMMANDS = {
    "sweep": (
        "domino_sglang.bench.sweep.command",
        "tokens/s, latency and acceptance against concurrency, arm beside arm",
    ),
    "accept": ("domino_sglang.bench.accept.command", "acceptance length offline, by workload and temperature"),
    "exactness": (
        "domino_sglang.bench.exactness.command",
        "greedy tokens against plain decoding's, one by one; fails on any difference",
    ),
    "soak": (
        "domino_sglang.bench.soak.command",
        "mixed load with disconnects for a while; fails on errors, leaks or drift",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands and their arguments."""
    commands = parser.add_subparsers(dest="bench", required=True, metavar="MEASUREMENT")
    for name, (module, line) in COMMANDS.items():
        command = commands.add_parser(
            name, help=line, description=line, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        implementation = importlib.import_module(module)
        implementation.add_arguments(command)
        command.set_defaults(run_bench=implementation.run)


def run(args: argparse.Namespace) -> int:
    """Run the measurement asked for; its exit status."""
    return args.run_bench(args)
