"""What is compared: an arm is a name and the flags of its server, or the URL of a server that is already up."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from domino_sglang.errors import UserError

PLAIN, BASE, DOMINO, DFLASH = "AR", "base", "DOMINO", "DFLASH"
KNOWN = (PLAIN, BASE, DOMINO, DFLASH)


class ArmError(UserError, ValueError):
    """An arm that cannot be built from what was given."""


@dataclass(frozen=True)
class Arm:
    """One of the things compared.

    Attributes:
        flags: of ``python -m sglang.launch_server``; empty for an arm with a URL.
        url: of a server already up, without a slash at the end.
    """

    name: str
    flags: tuple[str, ...] = ()
    url: str | None = None


def build_arms(
    names: Sequence[str],
    *,
    common: Sequence[str],
    drafter: Path | None,
    workspace: Path,
    extra: Sequence[str] = (),
    urls: Sequence[str] = (),
) -> list[Arm]:
    """The arms asked for, in order.

    Args:
        names: of :data:`KNOWN`.
        common: flags that every server gets.
        drafter: checkpoint of the base, DOMINO and DFLASH arms.
        workspace: folder for the base arm's checkpoint.
        extra: ``NAME=flags`` of further arms.
        urls: ``NAME=URL`` of servers already up.

    Raises:
        ArmError: an unknown or repeated name, or a missing drafter.
    """
    arms = [Arm(name, (*common, *_flags(name, drafter, workspace))) for name in names]
    arms += [Arm(name, (*common, *shlex.split(flags))) for name, flags in map(_named, extra)]
    arms += [Arm(name, url=url.rstrip("/")) for name, url in map(_named, urls)]
    repeated = {arm.name for arm in arms if [a.name for a in arms].count(arm.name) > 1}
    if repeated:
        raise ArmError(f"arms named twice: {sorted(repeated)}; give each a name of its own")
    if not arms:
        raise ArmError("no arms: pass --arms, --arm or --url")
    return arms


def _flags(name: str, drafter: Path | None, workspace: Path) -> list[str]:
    if name == PLAIN:
        return []
    if name not in KNOWN:
        raise ArmError(f"--arms names {name!r}, expected some of {', '.join(KNOWN)}; others go with --arm NAME='flags'")
    if drafter is None:
        raise ArmError(f"arm {name} needs a drafter; pass --drafter")
    if name == BASE:
        drafter = headless_copy(drafter, workspace / "base-drafter")
    algorithm = DFLASH if name == DFLASH else DOMINO
    return ["--speculative-algorithm", algorithm, "--speculative-draft-model-path", str(drafter)]


def headless_copy(drafter: Path, folder: Path) -> Path:
    """The same drafter with every proposal drafted from the base logits: what the backbone alone earns.

    Only ``config.json`` is written; the weights are links to the drafter's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in drafter.iterdir():
        link = folder / file.name
        if file.is_file() and file.name != "config.json" and not link.exists():
            os.symlink(file.resolve(), link)
    config = json.loads((drafter / "config.json").read_text())
    dflash = config.get("dflash_config") or {}
    where = dflash if "pure_draft_prefix_len" in dflash else config
    where["pure_draft_prefix_len"] = int(config.get("block_size", dflash.get("block_size"))) - 1
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ArmError(f"{text!r} is not NAME=VALUE")
    return name.strip(), value.strip()
