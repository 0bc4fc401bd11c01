"""Chats kept with a recipe, so that training again does not begin with a night of generation.

A corpus is what ``data synthesize`` wrote, token ids only, compressed: ``corpora/NAME.jsonl.xz``, one row per chat with
``id``, ``kind``, ``temperature``, ``finish``, ``prompt_ids`` and ``response_ids``. The ids belong to one tokenizer.
"""

from __future__ import annotations

import json
import logging
import lzma
import os
from pathlib import Path

from domino_sglang.training.data.storage import DataError, read_jsonl

logger = logging.getLogger(__name__)

CORPORA = Path(__file__).parent / "corpora"
KEPT = ("id", "kind", "temperature", "finish", "prompt_ids", "response_ids")


def unpack_corpus(name: str, folder: Path, limit: int | None = None) -> Path:
    """Write ``folder/responses.jsonl`` from a corpus, without features; a file that is there already stays.

    Args:
        name: of a packaged corpus, or a path.
        limit: of chats, from the first; None is all.

    Raises:
        DataError: no such corpus, or a damaged one.
    """
    file = folder / "responses.jsonl"
    if file.exists():
        return file
    source = Path(name) if Path(name).is_file() else CORPORA / f"{name}.jsonl.xz"
    if not source.is_file():
        known = sorted(p.name.removesuffix(".jsonl.xz") for p in CORPORA.glob("*.jsonl.xz"))
        raise DataError(f"no corpus {name!r}: data.corpus is a path, or one of the packaged {known}")
    folder.mkdir(parents=True, exist_ok=True)
    part, number = file.with_suffix(".part"), -1
    try:
        with lzma.open(source, "rt") as rows, part.open("w") as output:
            # To the end whatever the limit, where a damaged file shows itself.
            for number, line in enumerate(rows):
                if limit is None or number < limit:
                    output.write(json.dumps({**json.loads(line), "features": None}) + "\n")
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise DataError(f"{source} is damaged ({error}); write it again with `domino-sglang data pack`") from None
    os.replace(part, file)
    if limit is not None and number >= limit:
        logger.info("%s: the first %d of %d chats, as data.num_prompts says", source.name, limit, number + 1)
    return file


def pack_corpus(folder: Path, target: Path) -> int:
    """Compress ``folder/responses.jsonl`` into ``target``; returns how many chats.

    Raises:
        DataError: no responses, or a malformed line.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    count = 0
    with lzma.open(part, "wt", preset=9) as output:
        for _, row in read_jsonl(folder / "responses.jsonl"):
            output.write(json.dumps({key: row[key] for key in KEPT if key in row}, separators=(",", ":")) + "\n")
            count += 1
    os.replace(part, target)
    return count
