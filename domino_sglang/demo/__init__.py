"""The demo: a small target that needs no model hub, and the drafter packaged for it."""

from __future__ import annotations

from pathlib import Path

from domino_sglang.demo.target import DemoTargetError, prepare_target
from domino_sglang.errors import UserError

__all__ = ["DemoTargetError", "packaged_drafter", "prepare_target"]


def packaged_drafter() -> Path:
    """Folder of the drafter trained for SmolLM2-135M-Instruct (config.json, model.safetensors, README.md).

    Raises:
        UserError: this installation carries no drafter (a source tree before the first export).
    """
    folder = Path(__file__).parent / "drafter"
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"the packaged drafter lacks {missing} in {str(folder)!r}: reinstall domino-sglang, or train one with "
            "`domino-sglang train` and pass its folder to --speculative-draft-model-path"
        )
    return folder
