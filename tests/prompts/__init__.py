"""Prompts that exactness is measured on, the same every time: code, maths, chat in many languages, long documents."""

from __future__ import annotations

import re
from pathlib import Path

from domino_sglang.measure import workloads

HERE = Path(__file__).parent
# The chat file holds English first, then one or two prompts of each other language.
ENGLISH = 12
LICENSE = HERE.parents[1] / "LICENSE"


def code(count: int) -> list[str]:
    """HumanEval problems, evenly spaced over all 164."""
    problems = [prompt.problem for prompt in workloads.humaneval()]
    return [problems[i * len(problems) // count] for i in range(count)]


def maths(count: int) -> list[str]:
    """Grade-school problems."""
    # The generator takes seconds to import.
    return [prompt.problem for prompt in workloads.maths()[:count]] if count else []


def chat(count: int) -> list[str]:
    """English chat, at most :data:`ENGLISH`."""
    return _chat_file()[:ENGLISH][:count]


def languages(count: int) -> list[str]:
    """Chat in other languages and scripts."""
    return _chat_file()[ENGLISH:][:count]


def long_context(count: int, characters: int = 6000) -> list[str]:
    """Questions about a document of this many characters (about a quarter as many tokens)."""
    document = re.sub(r"\s+", " ", LICENSE.read_text())
    step = max(1, (len(document) - characters) // max(1, count))
    parts = [document[i * step : i * step + characters] for i in range(count)]
    return [f"{part}\n\nIn one sentence, what is part {i + 1} of this text about?" for i, part in enumerate(parts)]


def everything(
    num_code: int = 16,
    num_maths: int = 16,
    num_chat: int = 12,
    num_languages: int = 16,
    num_long: int = 6,
    characters: int = 6000,
) -> dict[str, list[str]]:
    """Kind -> prompts; 66 by default."""
    return {
        "code": code(num_code),
        "maths": maths(num_maths),
        "chat": chat(num_chat),
        "languages": languages(num_languages),
        "long context": long_context(num_long, characters),
    }


def _chat_file() -> list[str]:
    return (HERE / "chat.txt").read_text(encoding="utf-8").splitlines()
