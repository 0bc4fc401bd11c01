"""Batches of calls to a pair of servers: what differs, and what ends DOMINO's."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.fuzz.arms import Arm
from tests.fuzz.calls import Call, smaller
from tests.fuzz.drawing import BATCHES
from tests.fuzz.hostile import HOSTILE
from tests.fuzz.hunting import Findings, Found, hunt
from tests.fuzz.replies import LOST, REFUSED, SERVED, Reply, as_command, ask, ask_all, difference, is_close_call

EXAMPLES = 40
ENDED = "the server ended"
HISTORY = 2


class Ended(BaseException):
    """DOMINO's server is gone. No ``Exception``, so that no smaller batch is tried before it is back."""

    def __init__(self, calls: Sequence[Call]):
        super().__init__()
        self.calls = calls


class Search:
    """Calls to one pair of servers under the same flags."""

    def __init__(self, ours: Arm, plain: Arm, flags: str, findings: Findings):
        self.ours, self.plain, self.flags, self.findings = ours, plain, flags, findings
        self._guilty: Call | None = None
        self._before: deque[Sequence[Call]] = deque(maxlen=HISTORY)

    def run(self, number: int, until: float, examples: int = EXAMPLES) -> None:
        """So many batches drawn from this seed; at most one new failure comes of it."""
        try:
            self.findings.add(hunt(BATCHES, number, examples, until, self._check, self._smaller))
        except Ended as end:
            self.findings.add(self._killer(end.calls))

    def hostile(self, until: float) -> None:
        """What plain SGLang does not survive either is refused or served by DOMINO, which lives on."""
        for call in HOSTILE:
            if time.monotonic() > until:
                return
            self.findings.tried += 1
            reply = ask(self.ours.url, call)
            if not self.ours.is_alive():
                self.findings.add(self._found(ENDED, [call], self.ours.last_words()))
                self.ours.restart()
            elif reply.outcome not in (SERVED, REFUSED):
                self.findings.add(self._found(f"{reply.outcome} ({reply.status})", [call], reply.message))

    def _check(self, calls: list[Call]) -> Found | None:
        if any(self.findings.is_known(ENDED, call.features) for call in calls):
            return None
        self.findings.tried += len(calls)
        self._before.append(calls)
        with ThreadPoolExecutor(2) as pool:
            ours, plain = pool.map(lambda arm: ask_all(arm.url, calls), (self.ours, self.plain))
        if any(reply.outcome == LOST for reply in ours) and not self.ours.is_alive():
            raise Ended(calls)
        if any(reply.outcome == LOST for reply in plain) and not self.plain.is_alive():
            self.plain.restart()
            return None
        differences = (self._difference(calls, *one) for one in zip(calls, ours, plain, strict=True))
        return next((failure for failure in differences if failure is not None), None)

    def _difference(self, calls: Sequence[Call], call: Call, ours: Reply, plain: Reply) -> Found | None:
        what = difference(call, ours, plain)
        if what is None:
            return None
        failure = self._found(what, calls, _show(ours, plain), call)
        if not self.findings.is_new(failure):
            return None
        self._guilty = call
        is_tie = ours.outcome == plain.outcome == SERVED and is_close_call(self.plain.url, call)
        return None if is_tie else failure

    def _smaller(self, calls: Sequence[Call]) -> Iterator[Sequence[Call]]:
        """The call that was answered wrongly is enough, as a rule."""
        if len(calls) > 1 and self._guilty is not None:
            yield [self._guilty]
        yield from smaller(calls)

    def _killer(self, calls: Sequence[Call]) -> Found | None:
        """Each call of the last batches alone, on servers started again; None where plain decoding dies of it too."""
        words, both = self.ours.last_words(), not self.plain.is_alive()
        self._restart()
        # A server may also die of what it was asked before, after the answer.
        suspects = [call for batch in reversed(self._before) for call in batch]
        for call in suspects:
            ask(self.ours.url, call)
            if not self.ours.is_alive():
                calls, words = [call], self.ours.last_words()
                ask(self.plain.url, call)
                both = not self.plain.is_alive()
                self._restart()
                break
        return None if both else self._found(ENDED, calls, words)

    def _restart(self) -> None:
        for arm in (self.ours, self.plain):
            if not arm.is_alive():
                arm.restart()

    def _found(self, what: str, calls: Sequence[Call], detail: str, guilty: Call | None = None) -> Found:
        features = frozenset().union(*(call.features for call in ([guilty] if guilty else calls)))
        return Found(what, features, [f"flags: {self.flags}", *map(as_command, calls)], detail)


def _show(ours: Reply, plain: Reply) -> str:
    rows = []
    for name, reply in (("ours ", ours), ("plain", plain)):
        said = json.dumps(reply.choices) if reply.choices else reply.message
        rows.append(f"{name} {reply.status} {said[:400]}")
    return "\n".join(rows)
