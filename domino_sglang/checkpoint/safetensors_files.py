"""The headers of a folder's safetensors files: every tensor's name, dtype and shape, and whether its bytes are there.

Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, one contiguous buffer).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domino_sglang.checkpoint.problem import Problem

INDEX_NAME = "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000  # the limit of the safetensors library
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
DOWNLOAD_AGAIN = "download or copy the file again"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as its file's header describes it.

    Attributes:
        name: as stored, with or without the ``model.`` prefix.
        dtype: safetensors' name of it, for example ``BF16``.
        nbytes: bytes of data.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


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
    """The tensors of one file, and what is wrong with it. Reads the header only."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"version "):
            return [], [
                Problem(f"{file}", "a Git LFS pointer", "the weights", "run `git lfs pull` in the checkpoint's folder")
            ]
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(size - 8, LARGEST_HEADER):
            return [], [
                Problem(
                    f"{file} is truncated or no safetensors file",
                    f"{size} bytes and a header length of {length}",
                    f"a header inside the file and below {LARGEST_HEADER} bytes",
                    DOWNLOAD_AGAIN,
                )
            ]
        header = stream.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        spans = [_span(name, entry) for name, entry in entries.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return [], [Problem(f"{file}: the header is damaged ({error})", fix=DOWNLOAD_AGAIN)]
    tensors, problems, end = [], [], 0
    for name, dtype, shape, begin, stop in sorted(spans, key=lambda span: span[3:]):
        bits = BITS.get(dtype)
        if begin != end or (bits is not None and (stop - begin) * 8 != math.prod(shape) * bits):
            problems.append(
                Problem(
                    f"{name} in {file}: the header is damaged",
                    f"bytes {begin} to {stop} for {dtype} {list(shape)}",
                    f"{math.prod(shape) * (bits or 0) // 8} bytes from {end} on",
                    DOWNLOAD_AGAIN,
                )
            )
        end = max(end, stop)
        tensors.append(StoredTensor(name, file, dtype, shape, stop - begin))
    if not problems and 8 + length + end != size:
        problems.append(_wrong_size(file, size, 8 + length, end, spans))
    return tensors, problems


def _span(name: str, entry: Any) -> tuple[str, str, tuple[int, ...], int, int]:
    begin, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, stop)) or stop < begin:
        raise ValueError(f"{name} has shape {list(shape)} and offsets {begin} to {stop}")
    return name, str(entry["dtype"]), shape, begin, stop


def _wrong_size(file: Path, size: int, data: int, end: int, spans: list) -> Problem:
    if size > data + end:
        return Problem(f"{file} has bytes after its last tensor", f"{size} bytes", f"{data + end}", DOWNLOAD_AGAIN)
    cut = sorted(span[0] for span in spans if data + span[4] > size)
    return Problem(
        f"{file} is truncated, {len(cut)} of {len(spans)} tensors are incomplete ({_some(cut)})",
        f"{size} bytes",
        f"{data + end}",
        DOWNLOAD_AGAIN,
    )


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
