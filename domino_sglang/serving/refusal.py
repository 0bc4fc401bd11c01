"""A server that does not start says why in one line, the last on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Refusal(ValueError):
    """Arguments or a checkpoint that DOMINO does not serve: value, expectation, fix."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a ``ValueError`` into a :class:`Refusal`, and let an uncaught one end the process without a traceback.

    Raises:
        Refusal: with the words of the ``ValueError`` raised inside.
    """
    try:
        yield
    except ValueError as error:
        _say_it_in_one_line()
        raise Refusal(str(error)) from None


def _say_it_in_one_line() -> None:
    before = sys.excepthook

    def say(kind, error, trace):
        if issubclass(kind, Refusal):
            sys.stderr.write(f"DOMINO cannot serve: {error}\n")
        else:
            before(kind, error, trace)

    sys.excepthook = say
