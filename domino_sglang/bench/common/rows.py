"""What is written down while measuring, one JSON object a line, and read back as the same dataclasses."""

from __future__ import annotations

import functools
import logging
import math
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from domino_sglang.errors import UserError
from domino_sglang.measure.jsonl import numbered_lines
from domino_sglang.measure.provenance import Provenance

logger = logging.getLogger(__name__)

# JSON has no NaN: a number that is not known is null in the file.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


S = TypeVar("S")


class RowError(UserError, ValueError):
    """A file of rows that does not hold what was written: which line, and why."""


@dataclass(frozen=True, kw_only=True)
class Head(Provenance, Generic[S]):
    """The first row of a measurement: where it was made, and its settings, a dataclass of its own for each kind."""

    settings: S
    kind: Literal["provenance"] = "provenance"


def begin(file: Path, settings: Any) -> None:
    """A new file, with where and how the measurement is made."""
    file.write_text(_to_json(Head.now(settings=settings)), encoding="utf-8")


def append(file: Path, *rows: Any) -> None:
    """Add rows and close the file, so that an interruption loses nothing that was measured."""
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(map(_to_json, rows))


def read_run(file: Path, settings: type[S], *kinds: Any) -> tuple[Head[S], list[Any]]:
    """The head of a measurement and the rows after it; see :func:`read`.

    Raises:
        RowError: also where the first row is no such head.
    """
    first, *others = read(file, Head[settings], *kinds) or [None]  # type: ignore[valid-type]
    if not isinstance(first, Head):
        raise RowError(f"{file} does not begin with the date and settings of its measurement; measure again")
    return first, others


def read(file: Path, *kinds: Any) -> list[Any]:
    """The rows of a file, each as the one of ``kinds`` (told apart by ``kind``) that it was written from.

    A last line that a crash cut off is left out, with a warning.

    Raises:
        RowError: any other line that is none of ``kinds``; names file and line.
    """
    found = []
    for number, line in numbered_lines(file):
        try:
            found.append(_reader(*kinds).validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            if problem["type"] == "json_invalid" and not line.endswith(b"\n"):
                logger.warning("%s: line %d was cut off and is left out", file, number)
                break
            where = "".join(f"{name}: " for name in problem["loc"][-1:])
            raise RowError(
                f"{file}, line {number} is no row of this measurement: {where}{problem['msg']}; "
                "restore the file as it was measured, or measure again"
            ) from None
    return found


@functools.cache
def _reader(*kinds: Any) -> TypeAdapter[Any]:
    union: Any = kinds[0]
    if len(kinds) > 1:
        union = Annotated[functools.reduce(operator.or_, kinds), Field(discriminator="kind")]
    return TypeAdapter(union)


def _to_json(row: Any) -> str:
    return _reader(row.__class__).dump_json(row).decode() + "\n"
