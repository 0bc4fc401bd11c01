"""The headers of a folder's safetensors files: each tensor's name, dtype and shape, and whether its bytes are there."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from domino_sglang.checkpoint.problem import Problem

INDEX_NAME = "model.safetensors.index.json"
DOWNLOAD_AGAIN = "download or copy the file again"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as its file's header describes it.

    Attributes:
        name: as stored, with or without the ``model.`` prefix.
        dtype: safetensors' name of it, for example ``BF16``.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        bits = re.search(r"\d+", self.dtype)  # none in BOOL, a byte each
        return math.prod(self.shape) * (int(bits[0]) if bits else 8) // 8


def read_folder(folder: Path) -> tuple[list[StoredTensor], list[Problem]]:
    """All tensors that a loader would find in ``folder``, and everything wrong with the files that hold them."""
    index = folder / INDEX_NAME
    weight_map, problems = _read_index(index) if index.is_file() else ({}, [])
    if problems:
        return [], problems
    files = _indexed_files(folder, weight_map) if weight_map else sorted(folder.glob("*.safetensors"))
    if not files:
        return [], [_no_weights(folder)]
    problems += _missing_shards(files)
    tensors: list[StoredTensor] = []
    for file in files:
        if file.is_file():
            found, wrong = read_header(file)
            tensors += found
            problems += wrong
    if not problems and weight_map:
        problems = _against_index(weight_map, tensors, index)
    return tensors, problems


def read_header(file: Path) -> tuple[list[StoredTensor], list[Problem]]:
    """The tensors of one file, and what is wrong with it. Reads the header only; safetensors checks it against the
    file's size."""
    with file.open("rb") as stream:
        if stream.read(8) == b"version ":
            fix = "run `git lfs pull` in the checkpoint's folder"
            return [], [Problem(f"{file}", "a Git LFS pointer", "the weights", fix)]
    try:
        with safe_open(file, framework="pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            return [StoredTensor(name, file, s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()], []
    except (SafetensorError, OSError) as error:
        found = f"{file.stat().st_size} bytes, and safetensors says: {error}"
        return [], [Problem(f"{file} is truncated or no safetensors file", found, fix=DOWNLOAD_AGAIN)]


def _read_index(index: Path) -> tuple[dict[str, str], list[Problem]]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if weight_map and all(isinstance(name, str) for pair in weight_map.items() for name in pair):
            return weight_map, []
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    return {}, [
        Problem(
            f"{index}",
            "no usable weight_map",
            "a JSON object that maps each tensor to its file",
            "download or export the index again",
        )
    ]


def _indexed_files(folder: Path, weight_map: dict[str, str]) -> list[Path]:
    return [folder / name for name in sorted(set(weight_map.values()))]


def _missing_shards(files: list[Path]) -> list[Problem]:
    """Files that the index or the file names (``-00001-of-00003``) promise and the folder lacks."""
    wanted = {file.name for file in files}
    for file in files:
        if match := re.fullmatch(r"(.*)-(\d+)-of-(\d+)\.safetensors", file.name):
            stem, digits, count = match[1], len(match[2]), match[3]
            wanted |= {f"{stem}-{i:0{digits}d}-of-{count}.safetensors" for i in range(1, min(int(count), 9999) + 1)}
    folder = files[0].parent
    missing = sorted(name for name in wanted if not (folder / name).is_file())
    if not missing:
        return []
    return [
        Problem(
            f"{folder}: {len(missing)} weight files are missing ({_some(missing)})",
            f"{len(wanted) - len(missing)} files",
            f"{len(wanted)}",
            "download the missing files",
        )
    ]


def _against_index(weight_map: dict[str, str], tensors: list[StoredTensor], index: Path) -> list[Problem]:
    stored = {tensor.name: tensor.file.name for tensor in tensors}
    fix = f"export the checkpoint again, or delete {INDEX_NAME} so that the files are read as they are"
    problems = []
    for name in sorted(weight_map.keys() | stored.keys()):
        if weight_map.get(name) != stored.get(name):
            problems.append(
                Problem(
                    f"{name}: {index} does not match the files",
                    stored.get(name, "it in no file"),
                    weight_map.get(name, "no such tensor"),
                    fix,
                )
            )
    return problems


def _no_weights(folder: Path) -> Problem:
    others = sorted(file.name for pattern in ("*.bin", "*.pt", "*.gguf") for file in folder.glob(pattern))
    return Problem(
        f"{folder}: no weights",
        _some(others) if others else "no *.safetensors file",
        "model.safetensors, or shards with an index",
        "convert the weights to safetensors" if others else "download or export the weights",
    )


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
