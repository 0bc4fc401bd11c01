"""Chats on disk: a JSONL that grows row by row, and the hidden states that belong to it.

Both files only ever grow, a row's features before the row, so that what is on disk after a kill or on a full disk is
a complete prefix: opening for more cuts a half-written tail and goes on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domino_sglang.errors import UserError

logger = logging.getLogger(__name__)


class DataError(UserError, RuntimeError):
    """Training data that cannot be read or written: the file, the line, what is wrong and what to do."""


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers (from 1) and objects of a JSONL file; blank lines are skipped.

    Raises:
        DataError: no such file, or a line that is not a JSON object (a cut last line says so).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file {str(path)!r}, expected a JSONL of chats")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                cut = "" if line.endswith(b"\n") else " (the file ends inside this line: it was cut)"
                raise DataError(
                    f"{path}, line {number}: not valid JSON{cut}: {error}; fix or delete the line"
                ) from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: found {type(row).__name__}, expected an object")
            yield number, row


def chat_messages(row: dict[str, Any], where: str) -> list[dict[str, str]]:
    """The conversation of a row, checked: at least one message, string contents, a user turn last.

    Raises:
        DataError: no messages, an empty conversation, or a malformed message.
    """
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise DataError(f"{where}: 'messages' is {messages!r}, expected a list of {{role, content}}")
    if not messages:
        raise DataError(f"{where}: the conversation is empty, expected at least one user message")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise DataError(f"{where}: found the message {message!r}, expected {{role: str, content: str}}")
    while messages and messages[-1]["role"] == "assistant":  # answers are always the target's own
        messages = messages[:-1]
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise DataError(f"{where}: no user text to answer, expected a non-empty user message")
    return messages


class GrowingJsonl:
    """Append-only JSONL that survives a kill at any byte and reports a full disk in words."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = 0
        end = self._complete_bytes()
        self.stream = self.path.open("ab")
        if end != self.stream.tell():
            logger.warning("%s: dropping a half-written last line (%d bytes)", self.path, self.stream.tell() - end)
            self.stream.truncate(end)

    def _complete_bytes(self) -> int:
        end = 0
        if self.path.exists():
            with self.path.open("rb") as stream:
                for line in stream:
                    if line.endswith(b"\n"):
                        end += len(line)
                        self.rows += bool(line.strip())
        return end

    def append(self, row: dict[str, Any]) -> None:
        """Write one row and hand it to the system.

        Raises:
            DataError: the disk is full or the file cannot grow; every earlier row is kept, whole.
        """
        append_bytes(self.stream, json.dumps(row, ensure_ascii=False).encode() + b"\n", self.path, self.rows)
        self.rows += 1

    def close(self) -> None:
        self.stream.close()


def append_bytes(stream, data: bytes, path: Path, rows: int) -> None:
    """Append all of ``data`` or nothing."""
    end = stream.seek(0, os.SEEK_END)
    try:
        stream.write(data)
        stream.flush()
    except OSError as error:
        # The buffer still holds the bytes that did not fit; the descriptor must forget them too.
        descriptor = os.dup(stream.fileno())
        with contextlib.suppress(OSError):
            stream.close()
        os.truncate(descriptor, end)
        os.close(descriptor)
        reason = {errno.ENOSPC: "the disk is full", errno.EFBIG: "the file size limit is reached"}
        raise DataError(
            f"cannot write {path}: {reason.get(error.errno or 0, error.strerror)}; its {rows} finished rows are kept, "
            "whole. Free space (or choose another work_dir) and run the same command to go on"
        ) from error


class FeatureFile:
    """Hidden states of all tokens of all rows, one flat float16 array ``[tokens, width]`` on disk."""

    def __init__(self, path: str | Path, width: int, tokens: int):
        """Open for appending after the first ``tokens`` rows; what lies behind belongs to no finished row."""
        self.path, self.width, self.tokens = Path(path), width, tokens
        size = self.path.stat().st_size if self.path.exists() else 0
        need = tokens * width * 2
        if size < need:
            raise DataError(f"{self.path} has {size} bytes, expected at least {need}: delete {self.path.parent}")
        self.stream = self.path.open("ab")
        self.stream.truncate(need)

    def append(self, features: np.ndarray) -> int:
        """Write ``[n, width]`` float16; returns the index of the first token."""
        start = self.tokens
        data = np.ascontiguousarray(features, dtype=np.float16)
        append_bytes(self.stream, data.tobytes(), self.path, start)
        self.tokens += len(data)
        return start

    def close(self) -> None:
        self.stream.close()


def note_layers(features: Path, layers: Sequence[int]) -> None:
    """Say beside a feature file which layers it holds, in the order of its columns."""
    features.with_suffix(".json").write_text(json.dumps({"layers": list(layers)}) + "\n")


def check_layers(features: Path, layers: Sequence[int]) -> None:
    """Refuse a feature file of other layers: nothing in its numbers would tell.

    Raises:
        DataError: it holds other layers, or does not say which.
    """
    note = features.with_suffix(".json")
    found = json.loads(note.read_text())["layers"] if note.is_file() else None
    if found != list(layers):
        raise DataError(
            f"{features} holds the layers {found}, expected {list(layers)}; write it again with "
            "`domino-sglang data features`"
        )


def map_features(path: str | Path, width: int) -> np.ndarray:
    """The array on disk, memory-mapped, float16 ``[tokens, width]``; a half-written last token is left out."""
    path = Path(path)
    tokens = path.stat().st_size // (2 * width)
    return np.memmap(path, dtype=np.float16, mode="r", shape=(tokens, width))
