"""JSON lines as they lie on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, with their newline, numbered from 1.

    A line ends at a newline only: ``str.splitlines`` would also end it at U+2028, which may stand inside a JSON string.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line
