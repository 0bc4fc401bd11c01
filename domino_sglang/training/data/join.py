"""Chats of several ``data synthesize`` runs in one folder: of processes side by side, or of seeds of another day."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from domino_sglang.training.data.storage import DataError, GrowingJsonl, read_jsonl

logger = logging.getLogger(__name__)

RESPONSES = "responses.jsonl"


def join_responses(sources: Sequence[str | Path], folder: Path) -> int:
    """Append the chats of ``sources`` to ``folder/responses.jsonl``; returns how many.

    Ids go on from the highest there, so that what was held out stays held out. A chat whose prompt is there already is
    left out. Hidden states are not taken along: ``data features`` writes them anew.

    Args:
        sources: work folders, or data folders, of other runs.

    Raises:
        DataError: a source without responses, a malformed line, or a disk that is full.
    """
    files = [_responses_of(Path(source)) for source in sources]
    output = GrowingJsonl(folder / RESPONSES)
    present = [row for _, row in read_jsonl(folder / RESPONSES)]
    known = {tuple(row["prompt_ids"]) for row in present}
    number = max((row["id"] for row in present), default=-1) + 1
    before = output.rows
    try:
        for file in files:
            repeated = 0
            for _, row in read_jsonl(file):
                prompt = tuple(row["prompt_ids"])
                if prompt in known:
                    repeated += 1
                    continue
                known.add(prompt)
                output.append({**row, "id": number, "features": None})
                number += 1
            logger.info("%s: joined, %d chats left out whose prompts were there", file, repeated)
    finally:
        output.close()
    return output.rows - before


def _responses_of(source: Path) -> Path:
    for folder in (source, source / "data"):
        if (folder / RESPONSES).is_file():
            return folder / RESPONSES
    raise DataError(f"{source} holds no {RESPONSES}, nor does {source / 'data'}; write it with `data synthesize`")
