"""Which variant to ship for which batch size, from measured rows."""

from __future__ import annotations

from itertools import pairwise
from math import log
from typing import Any

VARIANTS = ("fused", "persistent")


def fastest(rows: list[dict[str, Any]]) -> dict[int, str]:
    """The variant with the smallest geometric mean over the shapes, by batch; a failed variant is out."""
    chosen = {}
    for batch in sorted({row["batch"] for row in rows}):
        here = [row for row in rows if row["batch"] == batch]
        shapes = {row["shape"] for row in here}
        times = {
            variant: [row["median_us"] for row in here if row["arm"] == variant and "error" not in row]
            for variant in VARIANTS
        }
        complete = {variant: sum(map(log, found)) for variant, found in times.items() if len(found) == len(shapes)}
        if complete:
            chosen[batch] = min(complete, key=complete.__getitem__)
    return chosen


def auto_variant_line(rows: list[dict[str, Any]]) -> str | None:
    """``AUTO_VARIANT`` of ``domino_kernels/plan.py`` as measured, or None if nothing was; the last entry is open."""
    chosen = list(fastest(rows).items())
    if not chosen:
        return None
    entries = [(batch, variant) for (batch, variant), later in pairwise(chosen) if variant != later[1]]
    text = "".join(f'({batch}, "{variant}"), ' for batch, variant in entries)
    return f'AUTO_VARIANT: tuple[tuple[int, Variant], ...] = ({text}(1 << 30, "{chosen[-1][1]}"),)'


def print_choice(rows: list[dict[str, Any]]) -> None:
    """Every shape's times side by side, and the line to put into the plan."""
    print(f"{'fastest variant':<18}" + "".join(f"{variant:>14}" for variant in VARIANTS) + "   (us, cold L2)")
    for shape in dict.fromkeys(row["shape"] for row in rows):
        mine = [row for row in rows if row["shape"] == shape and "error" not in row]
        for batch, variant in fastest(mine).items():
            times = {row["arm"]: row["median_us"] for row in mine if row["batch"] == batch}
            cells = "".join(f"{times[name]:14.1f}" if name in times else f"{'-':>14}" for name in VARIANTS)
            print(f"  {shape:<10} B={batch:<4}{cells}   {variant}")
    line = auto_variant_line(rows)
    if line is not None:
        print(f"for kernels/domino_kernels/plan.py: {line}", flush=True)
