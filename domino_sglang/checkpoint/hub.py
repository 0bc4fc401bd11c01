"""Where a checkpoint lies on this machine."""

from __future__ import annotations

from pathlib import Path

from domino_sglang.core.config import CheckpointError


def local_folder(
    name: str | Path,
    *,
    what: str = "checkpoint",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder of a checkpoint: ``name`` itself, or that of a model on the Hugging Face Hub, fetched if need be.

    Args:
        what: how the person at the terminal named it, a flag perhaps.
        revision, cache_dir: as ``huggingface_hub.snapshot_download`` takes them.

    Raises:
        CheckpointError: no such folder, and no such model that could be fetched.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if path.exists() or str(name).startswith((".", "/", "~")):
        raise CheckpointError(
            f"{what} {str(name)!r} is not a folder; pass the folder that holds config.json, or a name on the "
            "Hugging Face Hub"
        )
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors"]
    try:
        return Path(snapshot_download(str(name), revision=revision, cache_dir=cache_dir, allow_patterns=patterns))
    except Exception as error:
        raise CheckpointError(
            f"{what} {str(name)!r} is neither a folder here nor a checkpoint that could be fetched "
            f"({type(error).__name__}); pass the folder that holds config.json"
        ) from None
