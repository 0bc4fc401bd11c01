"""Training sequences in memory, their features on disk or from the target, and the order they are visited in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from domino_sglang.core.devices import to_device
from domino_sglang.training.data.storage import DataError, map_features, read_jsonl

BATCHES_SORTED_TOGETHER = 8


@dataclass(frozen=True)
class Example:
    """One chat: prompt, then the target's response.

    Attributes:
        ids: int64 ``[T]``, prompt and response.
        prompt_length: tokens before the response.
        feature_start: first token's row in the feature file, or None.
    """

    number: int
    kind: str
    temperature: float
    ids: torch.Tensor
    prompt_length: int
    feature_start: int | None


@dataclass(frozen=True)
class Split:
    """Sequences to train on and sequences kept apart."""

    training: list[Example]
    heldout: list[Example]

    @property
    def response_tokens(self) -> int:
        return sum(len(e.ids) - e.prompt_length for e in self.training)

    def evaluated(self, count: int) -> list[Example]:
        """The held-out texts that training replays: greedy ones, for acceptance is counted against them, at most so
        many."""
        return [e for e in self.heldout if e.temperature == 0][:count]


def load_split(folder: Path, heldout: int, max_length: int) -> Split:
    """Read ``responses.jsonl``; prompts numbered below ``heldout`` are kept apart, however many are added later.

    Raises:
        DataError: no file, a malformed line, or nothing to train on.
    """
    training: list[Example] = []
    apart: list[Example] = []
    file = folder / "responses.jsonl"
    for line, row in read_jsonl(file):
        try:
            prompt, response = row["prompt_ids"], row["response_ids"]
            example = Example(
                number=int(row["id"]),
                kind=str(row.get("kind", "chat")),
                temperature=float(row.get("temperature", 0.0)),
                ids=torch.tensor([*prompt, *response][:max_length]),
                prompt_length=len(prompt),
                feature_start=row.get("features"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file}, line {line}: {type(error).__name__} {error}; expected id, prompt_ids and response_ids as "
                "`domino-sglang data synthesize` writes them"
            ) from None
        if len(example.ids) >= example.prompt_length + 2 and example.prompt_length > 0:
            (apart if example.number < heldout else training).append(example)
    if not training:
        raise DataError(
            f"{file} holds no sequence to train on (at least 2 response tokens; ids below {heldout} are kept for "
            "evaluation): write more with `domino-sglang data synthesize`"
        )
    return Split(training, apart)


def frequent_tokens(examples: Sequence[Example], count: int) -> torch.Tensor:
    """The ``count`` most frequent response tokens, int64, sorted by id."""
    counter: Counter[int] = Counter()
    for example in examples:
        counter.update(example.ids[example.prompt_length :].tolist())
    return torch.tensor(sorted(token for token, _ in counter.most_common(count)))


def visit_order(size: int, seed: int, start: int) -> Iterator[int]:
    """Endless indices, each epoch its own permutation; ``start`` skips what an earlier run has visited.

    The order is a function of (size, seed, start), so a resumed run needs no saved generator.
    """
    epoch, offset = divmod(start, size)
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        yield from torch.randperm(size, generator=generator)[offset:].tolist()
        epoch, offset = epoch + 1, 0


def similar_lengths(examples: Sequence[Example], seed: int, start: int, batch: int) -> Iterator[list[Example]]:
    """Endless batches of ``batch`` sequences, from batch ``start`` on, each of similar lengths: little is padding.

    Every ``BATCHES_SORTED_TOGETHER`` batches are sorted by length among themselves and visited in a random order.
    """
    together = BATCHES_SORTED_TOGETHER
    pool, skip = divmod(start, together)
    order = visit_order(len(examples), seed, pool * together * batch)
    while True:
        picked = sorted((examples[next(order)] for _ in range(together * batch)), key=lambda e: len(e.ids))
        generator = torch.Generator().manual_seed(seed * 1_000_003 + pool)
        for place in torch.randperm(together, generator=generator).tolist()[skip:]:
            yield picked[place * batch : (place + 1) * batch]
        pool, skip = pool + 1, 0


class CachedFeatures:
    """Hidden states kept by ``data synthesize`` or ``data features``."""

    def __init__(self, path: Path, width: int):
        self.rows = map_features(path, width)

    def __call__(self, examples: Sequence[Example]) -> torch.Tensor:
        """float32 ``[B, longest - 1, K * H]``, zero where a sequence has ended; the last token has none."""
        longest = max(len(e.ids) for e in examples) - 1
        out = torch.zeros(len(examples), longest, self.rows.shape[1])
        for row, example in enumerate(examples):
            start, length = example.feature_start, len(example.ids) - 1
            if start is None or start + length > len(self.rows):
                raise DataError(
                    f"response {example.number} has no cached features; write them with `domino-sglang data features`, "
                    "or set data.cache_features: false"
                )
            out[row, :length] = torch.from_numpy(np.asarray(self.rows[start : start + length], dtype=np.float32))
        return out


class TargetFeatures:
    """Hidden states from a forward of the frozen target, each time they are needed."""

    def __init__(self, target: PreTrainedModel, layers: Sequence[int]):
        self.target, self.layers = target, [layer + 1 for layer in layers]

    @torch.no_grad()
    def __call__(self, examples: Sequence[Example]) -> torch.Tensor:
        """As :class:`CachedFeatures`, in the target's dtype and on its device."""
        longest = max(len(e.ids) for e in examples) - 1
        ids = torch.zeros(len(examples), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids) - 1] = example.ids[:-1]
            mask[row, : len(example.ids) - 1] = 1
        device = self.target.device
        ids, mask = to_device(ids, None, device), to_device(mask, None, device)
        output = self.target.base_model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        features = torch.cat([output.hidden_states[layer] for layer in self.layers], -1)
        return features * mask.to(features)[..., None]
