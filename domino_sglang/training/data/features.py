"""Hidden states for responses that have none yet, e.g. written by a server: one forward of the target per batch.

The same forward can write out loops that generation had cut: a greedy response that ended in a loop is continued by a
guess, and what the target would have chosen itself is kept, as in speculative decoding.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from domino_sglang.training.data.loops import looped_on
from domino_sglang.training.data.storage import FeatureFile, note_layers, read_jsonl
from domino_sglang.training.loop.dataset import Example, TargetFeatures

logger = logging.getLogger(__name__)


@torch.no_grad()
def write_features(
    target: PreTrainedModel,
    folder: Path,
    layers: tuple[int, ...],
    *,
    batch: int = 8,
    whole_loops: int = 0,
    progress: bool = True,
) -> Path:
    """Write ``features.f16`` for every row of ``responses.jsonl`` and note where each row's features start.

    All rows are computed anew, because a feature file holds one set of layers. The JSONL is replaced at the end, at
    once; until then the old pair of files stays as it was.

    Args:
        whole_loops: greedy responses that were cut in a loop are continued to so many tokens, as far as the target
            would have written the same; 0 leaves them. Token ids change, the text in ``messages`` does not.

    Raises:
        DataError: malformed rows, or a disk that is full.
    """
    responses, final = folder / "responses.jsonl", folder / "features.f16"
    rows = [row for _, row in read_jsonl(responses)]
    sure = [len(row["response_ids"]) for row in rows]
    for row in rows:
        if whole_loops and row.get("finish") == "loop" and row["temperature"] == 0:
            row["response_ids"] = looped_on(row["response_ids"], whole_loops)
    part = final.with_suffix(".part")
    part.unlink(missing_ok=True)
    hidden = target.config.get_text_config().hidden_size
    last = target.config.get_text_config().num_hidden_layers - 1
    source, output = TargetFeatures(target, (*layers, last)), FeatureFile(part, len(layers) * hidden, 0)
    # Equal lengths together, so that little of a batch is padding.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt_ids"]) + len(rows[i]["response_ids"]))
    try:
        for start in tqdm(range(0, len(order), batch), desc="features", unit="batch", disable=not progress):
            chosen = order[start : start + batch]
            computed = source([_example(rows[i]) for i in chosen])
            for i, states in zip(chosen, computed, strict=True):
                if len(rows[i]["response_ids"]) > sure[i]:
                    _keep_own(target, rows[i], sure[i], states[:, -hidden:])
                kept = states[: len(rows[i]["prompt_ids"]) + len(rows[i]["response_ids"]) - 1, :-hidden]
                rows[i]["features"] = output.append(kept.clamp(-65504, 65504).half().cpu().numpy())
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


def _keep_own(target: PreTrainedModel, row: dict[str, Any], sure: int, states: torch.Tensor) -> None:
    """Cut a guessed continuation behind the first token that the target chooses itself.

    Args:
        sure: tokens of the response that are the target's already.
        states: ``[T - 1, H]``, its last hidden states over prompt and guess.
    """
    guess = torch.tensor(row["response_ids"][sure:], device=states.device)
    first = len(row["prompt_ids"]) + sure - 1
    chosen = target.get_output_embeddings()(states[first : first + len(guess)]).argmax(-1)
    agreed = int((chosen == guess).long().cumprod(0).sum())
    row["response_ids"] = row["response_ids"][:sure] + chosen[: agreed + 1].tolist()
    row["finish"] = "length"  # no loop any more: running again must not guess behind its end


def _example(row: dict) -> Example:
    ids = torch.tensor([*row["prompt_ids"], *row["response_ids"]])
    return Example(int(row["id"]), "", 0.0, ids, len(row["prompt_ids"]), None)
