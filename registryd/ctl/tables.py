"""Tables for people: what a service says of itself becomes text that does nothing to a terminal but stand there.

Pure: how wide the terminal is, and whether it has colours, is a parameter.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

#: The colours that a cell may have, by SGR (ECMA-48, section 8.3.117).
COLOURS = {"good": "32", "fading": "33", "bad": "31", "odd": "35", "head": "1"}
#: Columns that are not made narrower than this.
NARROWEST = 8
#: Characters that end where they begin, or that turn round what stands beside them (Unicode's bidirectional controls).
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


class Cell(NamedTuple):
    """A text, as it came from elsewhere, and the colour that it has where there are colours."""

    text: str
    colour: str = ""


def printable(text: str) -> str:
    r"""The text with everything that a terminal might obey, or that cannot be seen, written as in Python: \x1b."""
    return "".join(_escaped(char) if unicodedata.category(char) in _INVISIBLE else char for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def width(text: str) -> int:
    """Columns of a terminal that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(_width_of(char) for char in text)


def _width_of(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """As much of a printable text as has room, with a mark where something is missing."""
    if width(text) <= columns:
        return text
    room, kept = columns - 1, ""
    for char in text:
        room -= _width_of(char)
        if room < 0:
            break
        kept += char
    return f"{kept}…"


def painted(text: str, colour: str) -> str:
    """The text in a colour."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if colour else text


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    columns: int | None = None,
    has_colours: bool = False,
    elastic: Sequence[str] = (),
) -> list[str]:
    """The lines of a table. Columns that are empty in all rows are left out. Where it is wider than `columns` the
    `elastic` ones, by their header, are cut; None: it may be of any width."""
    cells = [[Cell(name, "head") for name in header]]
    cells += [
        [Cell(printable(cell.text), cell.colour) if isinstance(cell, Cell) else Cell(printable(cell)) for cell in row]
        for row in rows
    ]
    used = [n for n in range(len(header)) if not rows or any(row[n].text for row in cells[1:])]
    widths = {n: max(width(row[n].text) for row in cells) for n in used}
    if columns is not None:
        _narrow(widths, columns, [n for n in used if header[n] in elastic])
    return [_line(row, widths, has_colours=has_colours) for row in cells]


def _narrow(widths: dict[int, int], columns: int, elastic: Sequence[int]) -> None:
    """Takes what is too much from the widest of the elastic ones, until it fits or none of them can give more."""
    too_much = sum(widths.values()) + 2 * (len(widths) - 1) - columns
    while too_much > 0 and elastic:
        widest = max(elastic, key=widths.__getitem__)
        if widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1
        too_much -= 1


def _line(row: Sequence[Cell], widths: dict[int, int], *, has_colours: bool) -> str:
    parts, last = [], max(widths, default=0)
    for n, columns in widths.items():
        text = cut(row[n].text, columns)
        padding = "" if n == last else " " * (columns - width(text))
        parts.append((painted(text, row[n].colour) if has_colours else text) + padding)
    return "  ".join(parts).rstrip()
