"""``domino-sglang``: the commands around the server. Serving itself is ``python -m sglang.launch_server``."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from domino_sglang.errors import UserError

# Command, the module with its add_arguments(parser) and run(args) -> exit status, and its one line of help.
COMMANDS = {
    "bench": ("domino_sglang.bench.command", "measure: throughput sweeps, acceptance length, exactness, a soak"),
    "demo": ("domino_sglang.demo.command", "serve a small chat model with and without Domino and compare"),
    "doctor": ("domino_sglang.commands.doctor", "check this environment: versions, GPU, platform, registration"),
    "inspect": ("domino_sglang.commands.inspect", "check a drafter's checkpoint, alone or against its target"),
    "playground": ("domino_sglang.playground.command", "a page to chat on and to see what each verify step accepts"),
    "data": ("domino_sglang.training.data.command", "make training data: the target's own conversations"),
    "ablate": ("domino_sglang.training.ablate_command", "the paper's ablations, trained and measured in one run"),
    "train": ("domino_sglang.training.train_command", "train a drafter for your target"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status is the process's, 2 where the user has something to put right."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="domino-sglang", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, line) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=line, description=line)
        # Only the command asked for is imported: --help needs no torch.
        if name in argv[:1]:
            command = importlib.import_module(module)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # One line per request would drown the answers.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return args.run(args)
    except UserError as error:
        logging.error("domino-sglang %s: error: %s", args.command, error)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
