"""Which target and drafter a measurement serves, and with what flags."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--target``, ``--drafter`` and ``--dtype``."""
    group = parser.add_argument_group("models")
    group.add_argument("--target", help="target model, folder or hub name (default: the demo's SmolLM2-135M-Instruct)")
    group.add_argument("--drafter", type=Path, help="Domino drafter's folder (default: the packaged one)")
    group.add_argument("--dtype", help="of target and drafter (default: float32 on a CPU, bfloat16 on a GPU)")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a server needs: the models' arguments and ``--server-flags``."""
    add_model_arguments(parser)
    parser.add_argument("--server-flags", default="", metavar="'FLAGS'", help="further flags of every server")


def target_path(args: argparse.Namespace) -> str:
    """``--target``, or the demo's target, prepared at the first call."""
    from domino_sglang.demo import prepare_target

    return args.target or str(prepare_target())


def drafter_folder(args: argparse.Namespace) -> Path:
    """``--drafter``, or the packaged one.

    Raises:
        UserError: neither was given nor is this installation carrying one.
    """
    from domino_sglang.demo import packaged_drafter

    return args.drafter or packaged_drafter()


def dtype(args: argparse.Namespace, gpu: bool) -> str:
    """``--dtype``, or float32 on a CPU, where greedy texts then are comparable token by token."""
    return args.dtype or ("bfloat16" if gpu else "float32")


def common_flags(args: argparse.Namespace, gpu: bool) -> tuple[str, ...]:
    """Flags that every server gets."""
    target = target_path(args)
    name = Path(target).name.removesuffix("-fp32")
    flags = ["--model-path", target, "--served-model-name", name, "--dtype", dtype(args, gpu)]
    return (*flags, *shlex.split(args.server_flags))
