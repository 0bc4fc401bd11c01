"""What must not change while a server is under load: its memory, its KV slots, its greedy answer."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from domino_sglang.measure.client import Client

PROBES = (
    "List the first eight prime numbers and say what a prime number is.",
    "Write a Python function that reverses the words of a sentence.",
)
# Memory before this share of the time is warm-up: caches fill, allocators grow.
WARM_UP, WINDOW = 0.3, 0.15


@dataclass(frozen=True)
class Idle:
    """An idle server's KV slots, cached prefixes not counted."""

    used_tokens: int
    seconds_to_idle: float


class NotIdle(RuntimeError):
    """Requests that nobody waits for any more still run."""


def wait_until_idle(client: Client, timeout_s: float = 180.0) -> Idle:
    """Wait until nothing runs or waits, and read how many KV slots are still taken.

    Raises:
        NotIdle: after ``timeout_s``.
    """
    began = time.monotonic()
    while True:
        loads = client.told("/v1/loads")["loads"]
        busy = sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)
        passed = time.monotonic() - began
        if not busy:
            return Idle(sum(load["num_used_tokens"] for load in loads), passed)
        if passed > timeout_s:
            raise NotIdle(f"{busy} requests still run or wait {timeout_s:.0f} s after the last client left")
        time.sleep(0.5)


def probe(client: Client, model: str, max_tokens: int = 48) -> list[str]:
    """Greedy answers to fixed prompts."""
    answers = []
    for prompt in PROBES:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        answers.append(client.ask("/v1/chat/completions", body)["choices"][0]["message"]["content"])
    return answers


def group_memory(group: int) -> int:
    """Resident bytes of every process in a process group (Linux)."""
    page, total = os.sysconf("SC_PAGE_SIZE"), 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if os.getpgid(int(entry.name)) == group:
                with open(f"/proc/{entry.name}/statm") as stream:
                    total += int(stream.read().split()[1]) * page
        except (OSError, ValueError):
            # Gone since it was listed.
            continue
    return total


def memory_growth(samples: Sequence[tuple[float, int]]) -> float | None:
    """Growth of the median memory from after the warm-up to the end, as a share; None of too few samples.

    Args:
        samples: (seconds, bytes), in order.
    """
    if len(samples) < 10:
        return None
    end = samples[-1][0]
    early = [size for at, size in samples if WARM_UP * end <= at <= (WARM_UP + WINDOW) * end]
    late = [size for at, size in samples if at >= (1 - WINDOW) * end]
    if not early or not late:
        return None
    return sorted(late)[len(late) // 2] / sorted(early)[len(early) // 2] - 1
