"""Rounds of servers: each under other flags, for some minutes."""

from __future__ import annotations

import random
import time
from pathlib import Path

from domino_sglang.demo import packaged_drafter, prepare_target
from domino_sglang.measure.server_process import ServerFailed
from tests.fuzz.arms import REFUSAL, Flags, Pair, draw_flags
from tests.fuzz.campaign import Search
from tests.fuzz.hunting import Findings, Found

ROUND_S = 420.0
USUAL = Flags({}, {"--speculative-num-draft-tokens": "8"})


def run_rounds(folder: Path, seed: int, until: float, findings: Findings) -> None:
    """The first under usual flags and with hostile calls at its end, the others under flags drawn from the seed."""
    target, drafter, draw = prepare_target(), packaged_drafter(), random.Random(seed)
    number, flags = 0, USUAL
    while time.monotonic() < until:
        findings.say(f"round {number}: {flags}")
        with Pair(target, drafter, flags, folder / f"round-{number}") as pair:
            if _starts(pair, flags, findings):
                search = Search(pair.ours, pair.plain, str(flags), findings)
                _search(search, (seed * 1000 + number) * 1000, until, number == 0)
        number, flags = number + 1, draw_flags(draw)


def _starts(pair: Pair, flags: Flags, findings: Findings) -> bool:
    """Flags that plain SGLang starts under, DOMINO starts under or refuses in a line."""
    ours, plain = pair.start()
    if ours is not None and plain is None and not ours.startswith(REFUSAL):
        names = frozenset(flags.shared | flags.ours)
        findings.add(Found("does not start", names, [f"flags: {flags}"], ours))
    elif ours or plain:
        findings.say(f"  ours: {ours}\n  plain: {plain}")
    return ours is None and plain is None


def _search(search: Search, number: int, until: float, hostile: bool) -> None:
    end = min(until, time.monotonic() + ROUND_S)
    try:
        while time.monotonic() < end:
            search.run(number, end)
            number += 1
        search.findings.say(f"  {search.findings.tried} tried so far")
        if hostile:
            search.hostile(until)
    except ServerFailed as error:
        search.findings.say(f"  a server did not come back: {str(error)[:300]}")
