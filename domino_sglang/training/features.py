"""Hidden states for responses that have none yet, e.g. written by a server: one forward of the target per batch."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from domino_sglang.training.dataset import Example, TargetFeatures
from domino_sglang.training.storage import FeatureFile, note_layers, read_jsonl

logger = logging.getLogger(__name__)


@torch.no_grad()
def write_features(
    target: PreTrainedModel, folder: Path, layers: tuple[int, ...], *, batch: int = 8, progress: bool = True
) -> Path:
    """Write ``features.f16`` for every row of ``responses.jsonl`` and note where each row's features start.

    All rows are computed anew, because a feature file holds one set of layers. The JSONL is replaced at the end, at
    once; until then the old pair of files stays as it was.

    Raises:
        DataError: malformed rows, or a disk that is full.
    """
    responses, final = folder / "responses.jsonl", folder / "features.f16"
    rows = [row for _, row in read_jsonl(responses)]
    part = final.with_suffix(".part")
    part.unlink(missing_ok=True)
    width = len(layers) * target.config.get_text_config().hidden_size
    source, output = TargetFeatures(target, layers), FeatureFile(part, width, 0)
    # Equal lengths together, so that little of a batch is padding.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt_ids"]) + len(rows[i]["response_ids"]))
    try:
        for start in tqdm(range(0, len(order), batch), desc="features", unit="batch", disable=not progress):
            chosen = order[start : start + batch]
            examples = [_example(rows[i]) for i in chosen]
            computed = source(examples).clamp(-65504, 65504).half().cpu()
            for i, example, feature in zip(chosen, examples, computed, strict=True):
                rows[i]["features"] = output.append(feature[: len(example.ids) - 1].numpy())
    finally:
        output.close()
    rewritten = responses.with_suffix(".part")
    rewritten.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    final.with_suffix(".json").unlink(missing_ok=True)  # it speaks of the old file
    os.replace(part, final)
    note_layers(final, layers)
    os.replace(rewritten, responses)
    logger.info("%s: %d tokens of %d layers", final, output.tokens, len(layers))
    return final


def _example(row: dict) -> Example:
    ids = torch.tensor([*row["prompt_ids"], *row["response_ids"]])
    return Example(int(row["id"]), "", 0.0, ids, len(row["prompt_ids"]), None)
