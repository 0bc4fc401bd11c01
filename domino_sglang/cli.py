"""``domino-sglang``: the commands around the server. Serving itself is ``python -m sglang.launch_server``."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """Where a command lives.

    Attributes:
        module: imported only when the command is asked for.
        help: one line.
        add_arguments: name of ``f(parser)`` in the module.
        run: name of ``f(args) -> exit status`` in the module.
    """

    module: str
    help: str
    add_arguments: str = "add_arguments"
    run: str = "run"


TRAINING = "domino_sglang.training.commands"

COMMANDS = {
    "demo": Command("domino_sglang.demo.command", "serve a small chat model with and without Domino and compare"),
    "doctor": Command("domino_sglang.doctor", "check this environment: versions, GPU, platform, registration"),
    "inspect": Command("domino_sglang.inspect_checkpoint", "check a drafter's checkpoint, alone or against its target"),
    "data": Command(TRAINING, "make training data: the target's own conversations", "add_data_arguments", "run_data"),
    "train": Command(TRAINING, "train a drafter for your target", "add_train_arguments", "run_train"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status is the process's."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="domino-sglang", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        # Only the command asked for is imported: --help needs no torch.
        if name in argv[:1]:
            module = importlib.import_module(command.module)
            getattr(module, command.add_arguments)(subparser)
            subparser.set_defaults(run=getattr(module, command.run))
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return args.run(args)


if __name__ == "__main__":
    raise SystemExit(main())
