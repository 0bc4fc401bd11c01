"""Self-synthesis: the target writes the user turns and the answers from its own chat template.

Two files grow in the data folder, both restartable: ``prompts.jsonl`` and ``responses.jsonl`` (with
``features.f16`` beside it when hidden states are kept).
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from domino_sglang.core.random_numbers import mix32
from domino_sglang.hf import stop_ids
from domino_sglang.training.data.generate import Completion, Request, SlotGenerator
from domino_sglang.training.data.loops import loop_start, repetition
from domino_sglang.training.data.prompts import Excluded, Opening, draw_openings, excluded_prompts, normalised
from domino_sglang.training.data.storage import (
    DataError,
    FeatureFile,
    GrowingJsonl,
    chat_messages,
    check_layers,
    note_layers,
    read_jsonl,
)
from domino_sglang.training.recipe import DataRecipe

logger = logging.getLogger(__name__)

OPENINGS_AT_ONCE = 256
USER_TURN_TOKENS = 56
USER_TURN_TEMPERATURE = 0.8
PLACEHOLDER = "@@user-turn@@"
# A prompt that repeats itself this much teaches nothing but repetition.
MAX_PROMPT_REPETITION = 0.5
# What a loop is worth learning: enough to copy, not a budget of it.
LOOP_TOKENS_KEPT = 64


class Chat:
    """A tokenizer's chat template, in token ids."""

    def __init__(self, tokenizer):
        if not getattr(tokenizer, "chat_template", None):
            raise DataError(
                f"the target's tokenizer ({tokenizer.name_or_path}) has no chat template, and self-generated data is "
                "made of chats: use an instruct model, or set tokenizer.chat_template and save the tokenizer again"
            )
        self.tokenizer = tokenizer
        rendered = self._render([{"role": "user", "content": PLACEHOLDER}], generation=True)
        if PLACEHOLDER not in rendered:
            raise DataError("the chat template drops the user's text, expected it in the rendered prompt")
        self.before_user = rendered.split(PLACEHOLDER)[0]

    def _render(self, messages: list[dict[str, str]], generation: bool) -> str:
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids up to where the assistant speaks."""
        return self.encode(self._render(messages, generation=True))

    def user_ids(self, opening: str) -> list[int]:
        """Ids of a conversation that stops inside its first user turn."""
        return self.encode(self.before_user + opening)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def request_seed(seed: int, index: int, purpose: int) -> int:
    import torch

    word = mix32(torch.tensor((seed * 0x9E3779B1 + index * 0x85EBCA6B + purpose * 0xC2B2AE35) & 0xFFFFFFFF))
    return int(word) << 20 ^ index


def write_prompts(target, tokenizer, recipe: DataRecipe, folder: Path, progress: bool = True) -> Path:
    """Prompts of the recipe in ``folder/prompts.jsonl``: from the user's file, or written by the target.

    Raises:
        DataError: a malformed or empty prompts file, a target without chat template, a disk that is full.
    """
    chat = Chat(tokenizer)
    file = folder / "prompts.jsonl"
    excluded = excluded_prompts(recipe.exclude_files)
    output = GrowingJsonl(file)
    rows = [row for _, row in read_jsonl(file)]
    known = {normalised(row["messages"][-1]["content"]) for row in rows}
    tried = max((row["opening"] for row in rows), default=-1) + 1
    number = max((row["id"] for row in rows), default=-1) + 1
    counts = {"kept": len(known), "dropped": 0}
    try:
        with tqdm(total=recipe.num_prompts, initial=len(known), desc="prompts", disable=not progress) as bar:
            source: Iterable[tuple[int, str, list[dict[str, str]]]] = ()
            if counts["kept"] >= recipe.num_prompts:
                pass  # asking the generator at all would make it write a batch
            elif recipe.prompts_file:
                source = _from_file(recipe.prompts_file, tried)
            else:
                source = _from_target(target, tokenizer, chat, recipe, tried)
            for opening, kind, messages in source:
                if counts["kept"] >= recipe.num_prompts:
                    break
                if _acceptable(messages[-1]["content"], chat, known, excluded):
                    output.append({"id": number, "opening": opening, "kind": kind, "messages": messages})
                    number += 1
                    counts["kept"] += 1
                    bar.update()
                else:
                    counts["dropped"] += 1
    finally:
        output.close()
    if not counts["kept"]:
        raise DataError(f"no usable prompt for {file}: all {counts['dropped']} were empty, repeated or excluded")
    logger.info("%s: %d prompts, %d dropped as repeated, degenerate or excluded", file, *counts.values())
    return file


def _acceptable(text: str, chat: Chat, known: set[str], excluded: Excluded) -> bool:
    key = normalised(text)
    ids = chat.encode(text)
    if len(key) < 8 or key in known or text in excluded:
        return False
    if repetition(ids) > MAX_PROMPT_REPETITION or loop_start(ids) is not None:
        return False
    known.add(key)
    return True


def _from_file(path: str, start: int) -> Iterator[tuple[int, str, list[dict[str, str]]]]:
    for position, (number, row) in enumerate(read_jsonl(path)):
        if position >= start:
            yield position, str(row.get("kind", "chat")), chat_messages(row, f"{path}, line {number}")


def _from_target(
    target, tokenizer, chat: Chat, recipe: DataRecipe, start: int
) -> Iterator[tuple[int, str, list[dict[str, str]]]]:
    """User turns in the order of their openings, which depends on the seed alone: a restart knows where it was."""
    generator = SlotGenerator(
        target,
        slots=recipe.slots,
        max_length=recipe.max_prompt_tokens + USER_TURN_TOKENS,
        stop_ids=stop_ids(target, tokenizer),
    )
    together = max(1, min(4 * recipe.slots, recipe.num_prompts) // OPENINGS_AT_ONCE)
    for first in itertools.count(start // OPENINGS_AT_ONCE, together):
        openings: dict[int, Opening] = {}
        for number in range(first, first + together):
            drawn = draw_openings(OPENINGS_AT_ONCE, recipe.mix, recipe.seed * 100_003 + number)
            openings.update(enumerate(drawn, number * OPENINGS_AT_ONCE))
        openings = {i: opening for i, opening in openings.items() if i >= start}
        texts = {i: opening.text for i, opening in openings.items() if opening.complete}
        requests = [
            Request(
                i,
                tuple(chat.user_ids(opening.text)[: recipe.max_prompt_tokens]),
                USER_TURN_TOKENS,
                USER_TURN_TEMPERATURE,
                request_seed(recipe.seed, i, 1),
            )
            for i, opening in openings.items()
            if not opening.complete
        ]
        for done in generator.run(requests):
            texts[done.request.index] = _user_turn(openings[done.request.index], done, chat)
        for i in sorted(texts):
            yield i, openings[i].kind, [{"role": "user", "content": texts[i]}]


def _user_turn(opening: Opening, done: Completion, chat: Chat) -> str:
    """The opening and the target's words, cut at a sentence when the budget ended first; empty when useless."""
    ids = done.ids[:-1] if done.finish == "stop" else done.ids
    words = chat.decode(ids)
    if opening.until is not None:
        words = words.split(opening.until)[0].rstrip()
        if not words.strip():
            return ""
    elif done.finish != "stop":
        ends = [m for m in (words.rfind(c) for c in ".?!\n。？") if m > 0]
        words = words[: max(ends) + 1] if ends else ""
    return (opening.text + words + opening.closing).rstrip(" ") if words.strip() else ""


def write_responses(
    target,
    tokenizer,
    recipe: DataRecipe,
    folder: Path,
    capture_layers: tuple[int, ...],
    progress: bool = True,
) -> Path:
    """Answer every prompt of ``folder/prompts.jsonl`` into ``folder/responses.jsonl``, the target's own words.

    Rows hold ``prompt_ids`` and ``response_ids`` (the stop token included). Prompts that are too long are skipped.

    Raises:
        DataError: no prompts, a target without chat template, a disk that is full (finished rows are kept).
    """
    chat = Chat(tokenizer)
    file = folder / "responses.jsonl"
    layers = capture_layers if recipe.cache_features else ()
    width = len(layers) * target.config.get_text_config().hidden_size
    output = GrowingJsonl(file)
    rows = [row for _, row in read_jsonl(file)]
    features = None
    if layers:
        end = max((row["features"] + _stored(row) for row in rows if row["features"] is not None), default=0)
        if end:
            check_layers(folder / "features.f16", layers)
        else:
            note_layers(folder / "features.f16", layers)
        features = FeatureFile(folder / "features.f16", width, end)
    answered = {row["id"] for row in rows}
    prompts = {row["id"]: row for _, row in read_jsonl(folder / "prompts.jsonl")}
    generator = SlotGenerator(
        target,
        slots=recipe.slots,
        max_length=recipe.max_prompt_tokens + recipe.max_new_tokens,
        stop_ids=stop_ids(target, tokenizer),
        capture_layers=layers,
        cut_loops=recipe.cut_loops,
    )

    def requests() -> Iterator[Request]:
        for number, row in prompts.items():
            if number in answered:
                continue
            messages = chat_messages(row, f"{folder / 'prompts.jsonl'}, id {number}")
            ids = chat.prompt_ids(messages)
            if len(ids) > recipe.max_prompt_tokens:
                logger.debug("prompt %d skipped: %d tokens, at most %d", number, len(ids), recipe.max_prompt_tokens)
                continue
            seed = request_seed(recipe.seed, number, 2)
            greedy = (seed >> 20) % 1000 < 1000 * recipe.greedy_share
            yield Request(number, tuple(ids), recipe.max_new_tokens, 0.0 if greedy else recipe.temperature, seed)

    tokens = sum(len(row["response_ids"]) for row in rows)
    try:
        with tqdm(total=len(prompts), initial=len(answered), desc="responses", disable=not progress) as bar:
            for done in generator.run(requests()):
                row = response_row(done, prompts[done.request.index], chat, recipe.cut_loops)
                if features is not None and done.features is not None:
                    row["features"] = features.append(done.features[: _stored(row)].numpy())
                output.append(row)
                tokens += len(row["response_ids"])
                bar.update()
                bar.set_postfix(tokens=tokens)
    finally:
        output.close()
        if features is not None:
            features.close()
    logger.info("%s: %d responses, %d response tokens", file, output.rows, tokens)
    return file


def _stored(row: dict[str, Any]) -> int:
    return len(row["prompt_ids"]) + len(row["response_ids"]) - 1


def response_row(done: Completion, prompt: dict[str, Any], chat: Chat, cut_loops: bool = True) -> dict[str, Any]:
    """What is kept of a completion; a loop is cut :data:`LOOP_TOKENS_KEPT` tokens after it began."""
    ids = list(done.ids)
    start = loop_start(ids) if cut_loops else None
    if start is not None:
        ids = ids[: start + LOOP_TOKENS_KEPT]
    return {
        "id": done.request.index,
        "kind": prompt.get("kind", "chat"),
        "temperature": done.request.temperature,
        "finish": "loop" if start is not None else done.finish,
        "messages": [*prompt["messages"], {"role": "assistant", "content": chat.decode(ids)}],
        "prompt_ids": list(done.request.prompt_ids),
        "response_ids": ids,
        "features": None,
    }
