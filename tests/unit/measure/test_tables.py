import math

from domino_sglang.measure.tables import aligned, markdown, number


def test_a_cell_cannot_break_its_table():
    assert markdown(["error", "times"], [["a|b", 3]]) == ["| error | times |", "|---|---|", "| a\\|b | 3 |", ""]
    assert markdown(["nothing"], []) == ["| nothing |", "|---|", ""]


def test_columns_are_as_wide_as_their_widest_cell():
    lines = aligned([("a", 1), ("bcd", 22)], ("", "number"), right={1})
    assert lines == ["       number", "  a         1", "  bcd      22"]


def test_what_is_not_known_is_a_dash():
    assert [number(None), number(math.nan), number(1.25, 2)] == ["-", "-", "1.25"]
