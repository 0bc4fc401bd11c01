"""Prompts to train on: the target writes them itself from openings, and grade-school maths is drawn from a generator.

Openings only set the subject; the words are the target's. Maths seeds start at :data:`MATHS_SEED`, far from any
seed that an evaluation uses, and every prompt is compared with the excluded ones.
"""

from __future__ import annotations

import functools
import logging
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from domino_sglang.measure.workloads import EVALUATED, MATHS_PROBLEMS, WORKLOADS, WorkloadError
from domino_sglang.training.data.storage import DataError, read_jsonl
from domino_sglang.training.recipe import RecipeError

logger = logging.getLogger(__name__)

MATHS_SEED = 70_000_000
# What an evaluation may draw: templates have few numbers, so other seeds alone do not keep the texts apart.
EVALUATION_SEEDS = (*range(10), 42, 123, 1234, 2024, 2025, 2026)
MATHS_TASKS = ("gsm_symbolic",) * 9 + ("chain_sum", "leg_counting", "simple_equations")


@dataclass(frozen=True)
class Opening:
    """The start of a user turn, to be continued by the target.

    Attributes:
        kind: ``code``, ``maths`` or ``chat``.
        text: how the user turn begins; may be empty.
        closing: what is appended to the turn when the target has written its part.
        until: the target's part ends before this string (None: at its own end of turn).
        complete: the turn needs nothing from the target.
    """

    kind: str
    text: str
    closing: str = ""
    until: str | None = None
    complete: bool = False


# So many of the chat openings are empty: there the target chooses the subject too.
EMPTY_OPENINGS = 12


@functools.cache
def _words() -> dict[str, Any]:
    words = yaml.safe_load((Path(__file__).parent / "openings.yaml").read_text())
    words["verbs"], words["nouns"] = words["verbs"].split(), words["nouns"].split()
    words["chat"] = [""] * EMPTY_OPENINGS + words["chat"]
    return words


def draw_openings(count: int, mix: Mapping[str, float], seed: int) -> list[Opening]:
    """``count`` openings in the shares of ``mix``, shuffled, the same for the same seed.

    Raises:
        RecipeError: an unknown kind, or shares that are not positive.
    """
    unknown = sorted(set(mix) - {"code", "maths", "chat"})
    if unknown or not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
        raise RecipeError(f"data.mix is {dict(mix)!r}, expected positive shares of code, maths and chat")
    total = sum(mix.values())
    numbers = {kind: round(count * share / total) for kind, share in mix.items()}
    generator = random.Random(seed)
    openings = [_code(generator) for _ in range(numbers.get("code", 0))]
    openings += [Opening("chat", generator.choice(_words()["chat"])) for _ in range(numbers.get("chat", 0))]
    openings += maths_prompts(numbers.get("maths", 0), seed)
    generator.shuffle(openings)
    return openings


def _code(generator: random.Random) -> Opening:
    if generator.random() < 0.25:
        return Opening("code", generator.choice(_words()["code_questions"]))
    head, tail = generator.choice(_words()["code_frames"])
    arguments, result = generator.choice(_words()["signatures"])
    name = generator.choice(_words()["verbs"]) + "_" + generator.choice(_words()["nouns"])
    arrow = f" -> {result}" if result else ""
    imports = "from typing import List\n\n\n" if "List" in arguments + result else ""
    quotes = '"""' if generator.random() < 0.85 else "'''"
    space = generator.choice(("", " ", "\n    "))
    text = f"{head}{imports}def {name}({arguments}){arrow}:\n    {quotes}{space}"
    return Opening("code", text, closing=f"\n    {quotes}\n{tail}", until=quotes)


def maths_prompts(count: int, seed: int) -> list[Opening]:
    """Grade-school maths from ``reasoning-gym`` with training-only seeds.

    Raises:
        DataError: ``reasoning-gym`` is not installed.
    """
    if not count:
        return []
    try:
        import reasoning_gym
    except ImportError:
        raise DataError(
            "data.mix asks for maths, which needs reasoning-gym: `pip install reasoning-gym`, or set the share to 0"
        ) from None
    openings = []
    for offset, task in enumerate(sorted(set(MATHS_TASKS))):
        size = round(count * MATHS_TASKS.count(task) / len(MATHS_TASKS))
        data = reasoning_gym.create_dataset(task, size=max(size, 1), seed=MATHS_SEED + 1_000_000 * offset + seed)
        openings += [Opening("maths", data[i]["question"], complete=True) for i in range(size)]
    return openings


def normalised(text: str) -> str:
    """Letters and digits in lower case, everything else one space: the key of deduplication."""
    return re.sub(r"\W+", " ", text.lower()).strip()


# Shorter prompts are excluded where they are the whole text, longer ones wherever they stand.
CONTAINED_FROM = 40


class Excluded:
    """Prompts that must not be trained on: equal text, or text that contains one whole."""

    def __init__(self, texts: Iterable[str]):
        self.keys = {key for key in map(normalised, texts) if key}
        # By their beginnings: a lookup for each place of a text, whatever the number of prompts.
        self.long: dict[str, list[str]] = defaultdict(list)
        for key in self.keys:
            if len(key) >= CONTAINED_FROM:
                self.long[key[:CONTAINED_FROM]].append(key)

    def __contains__(self, text: str) -> bool:
        key = normalised(text)
        return key in self.keys or any(
            key.startswith(part, place)
            for place in range(len(key) - CONTAINED_FROM + 1)
            for part in self.long.get(key[place : place + CONTAINED_FROM], ())
        )


@functools.cache
def _evaluation_prompts() -> tuple[str, ...]:
    texts: list[str] = []
    for name in EVALUATED:
        try:
            texts += [prompt.problem for prompt in WORKLOADS[name]()]
        except WorkloadError as error:
            logger.warning("%s: its problems are not kept out of the training prompts", error)
    try:
        import reasoning_gym
    except ImportError:
        return tuple(texts)
    for task in sorted(set(MATHS_TASKS)):
        for seed in EVALUATION_SEEDS:
            data = reasoning_gym.create_dataset(task, size=MATHS_PROBLEMS, seed=seed)
            texts += [data[i]["question"] for i in range(MATHS_PROBLEMS)]
    return tuple(texts)


def excluded_prompts(files: Iterable[str | Path] = ()) -> Excluded:
    """What an evaluation may ask: the project's own workloads, reasoning-gym under :data:`EVALUATION_SEEDS`, as
    far as the packages are installed, and every prompt in ``files`` (JSONL of chats or prompts, else one text a line).
    """
    texts = list(_evaluation_prompts())
    for file in files:
        if str(file).endswith(".jsonl"):
            for _, row in read_jsonl(file):
                texts += [str(row[name]) for name in ("prompt", "question", "text", "content") if row.get(name)]
                texts += [m["content"] for m in row.get("messages", ()) if m.get("role") == "user"]
        else:
            texts += Path(file).read_text().splitlines()
    return Excluded(texts)
