"""Long documents written for this project: a harbour's ledger, the same for the same number, and a question about it.

Each entry differs, so that a document is neither repetitive nor known to any model, and the answer stands in one of
its entries.
"""

from __future__ import annotations

import random

_SHIPS = (
    "Heron", "Amity", "Bluebell", "Cormorant", "Dovetail", "Ember", "Fortitude", "Gannet", "Harrier", "Isolde",
    "Juniper", "Kestrel", "Larkspur", "Mistral", "Nightjar", "Osprey", "Peregrine", "Quickstep", "Rosalind",
    "Sandpiper", "Tamarisk", "Undine", "Verity", "Whimbrel", "Yarrow", "Zephyr",
)  # fmt: skip
_PORTS = (
    "Aldermouth", "Brackwater", "Corran", "Dunsey", "Eastholm", "Farrow", "Greyling", "Holm", "Invermay",
    "Kilbrae", "Lowick", "Merrin",
)  # fmt: skip
_GOODS = (
    "barrels of salt",
    "sacks of barley",
    "crates of glass",
    "bales of wool",
    "casks of lamp oil",
    "cords of timber",
    "chests of tea",
    "coils of rope",
    "tons of slate",
    "baskets of herring",
)
_EVENTS = (
    "She lay two tides at the north quay, because the crane was being mended.",
    "Her master asked for a pilot and was told to wait for the evening.",
    "The customs officer found one seal broken and wrote it down without comment.",
    "A boy of the crew went ashore with a fever and was taken in by the miller's family.",
    "The wind had gone round to the east, and she came in under half her canvas.",
    "Nothing was broken in the hold, which the harbour master called a small wonder.",
    "She took on water and bread, and paid her dues in coin.",
    "Two of her planks were started, and the shipwright was sent for before noon.",
    "The fog was so thick that her bell was heard a full hour before she was seen.",
)
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip


def document(number: int, characters: int) -> tuple[str, str]:
    """A ledger of at least ``characters`` characters, and a question that one of its entries answers."""
    draw = random.Random(f"ledger {number}")
    lines = [f"Ledger of the harbour of {draw.choice(_PORTS)}, book {number + 1}, kept by the harbour master.\n"]
    entries: list[tuple[str, str, int, str, int]] = []
    day, year = 1, 1840 + number % 50
    length = len(lines[0])
    while length < characters:
        month = _MONTHS[min(len(entries) // 6, 11)]
        ship, port = draw.choice(_SHIPS), draw.choice(_PORTS)
        amount, goods = draw.randrange(12, 480), draw.choice(_GOODS)
        entries.append((ship, port, amount, goods, len(entries) + 1))
        lines.append(
            f"Entry {len(entries)}, {day} {month} {year}. The {ship} of {port}, with {amount} {goods}. "
            f"{draw.choice(_EVENTS)}"
        )
        length += len(lines[-1]) + 1
        day = day % 27 + draw.randrange(1, 5)
    ship, port, _amount, goods, entry = draw.choice(entries)
    question = (
        f"What did the {ship} of {port} carry according to entry {entry}, and what happened to her? "
        "Answer in two sentences."
    )
    return "\n".join(lines), question


def prompt(number: int, characters: int = 4000) -> str:
    """Document and question as one user message."""
    text, question = document(number, characters)
    return f"{text}\n\n{question}"
