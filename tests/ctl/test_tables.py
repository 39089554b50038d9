"""Tables: aligned, no wider than they may be, and harmless whatever a service says of itself."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registryd.ctl.tables import Cell, cut, printable, table, width


def test_columns_are_aligned_and_empty_ones_left_out() -> None:
    lines = table(("NAME", "ZONE", "UP"), [["users", "", "2"], ["timelines", "", "10"]])

    assert lines == ["NAME       UP", "users      2", "timelines  10"]


def test_wide_and_combining_characters_take_the_room_that_they_take() -> None:
    lines = table(("A", "B"), [["日本", "x"], ["e\u0301", "x"], ["abcd", "x"]])

    assert lines == ["A     B", "日本  x", "e\u0301     x", "abcd  x"]


def test_what_may_be_cut_is_cut_and_nothing_else() -> None:
    rows = [["an-instance-id-that-one-copies", "a=1 " * 20, "tag " * 10]]
    lines = table(("ID", "METADATA", "TAGS"), rows, columns=60, elastic=("METADATA", "TAGS"))

    assert [width(line) for line in lines][1] == 60
    assert lines[1].startswith("an-instance-id-that-one-copies  a=1 a=1")
    assert lines[1].count("…") == 2
    narrow = table(("ID", "METADATA", "TAGS"), rows, columns=20, elastic=("METADATA", "TAGS"))
    assert narrow[1].startswith("an-instance-id-that-one-copies  a=1 a=1…  ")


def test_colours_take_no_room() -> None:
    rows: list[list[Cell | str]] = [[Cell("up", "good"), "x"], [Cell("maintenance", "fading"), "x"]]
    plain = table(("STATUS", "B"), rows)
    coloured = table(("STATUS", "B"), rows, has_colours=True)

    assert coloured[1] == "\x1b[32mup\x1b[0m           x"
    assert plain == ["STATUS       B", "up           x", "maintenance  x"]


@pytest.mark.parametrize(
    ("evil", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\nb\r\tc\x00", r"a\nb\r\tc\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("line\u2028end", r"line\u2028end"),
        ("half\ud800", r"half\ud800"),
        ("é 日本 ✓", "é 日本 ✓"),
    ],
)
def test_nothing_that_a_terminal_obeys_comes_through(evil: str, shown: str) -> None:
    assert printable(evil) == shown
    assert table(("A",), [[evil]])[1] == shown


@settings(max_examples=40)
@given(st.lists(st.lists(st.text(max_size=20), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(1, 80))
def test_whatever_is_in_it_no_line_has_a_control_character(rows: list[list[str]], columns: int) -> None:
    lines = table(("A", "B", "C"), rows, columns=columns, elastic=("A", "B", "C"))

    assert len(lines) == len(rows) + 1
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp") for line in lines for char in line)


@settings(max_examples=40)
@given(st.text(max_size=30), st.integers(1, 30))
def test_what_is_cut_fits(text: str, columns: int) -> None:
    assert width(cut(printable(text), columns)) <= columns
