"""Where text goes: lines for people, JSON for programs, and what is wrong on stderr."""

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any, TextIO

from registryd.ctl.tables import Cell, painted, printable, table


class Output:
    """The standard output and error of one command. Raises OSError where they cannot be written to, BrokenPipeError
    where nobody reads any more."""

    def __init__(self, out: TextIO, err: TextIO, environ: dict[str, str] | os._Environ[str]) -> None:
        self._out = out
        self._err = err
        self.is_terminal = out.isatty()
        self.has_colours = self.is_terminal and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"

    def line(self, text: str) -> None:
        """A line, at once. The text is printable."""
        self.write(f"{text}\n")

    def write(self, text: str) -> None:
        """Text as it is, at once."""
        self._out.write(text)
        self._out.flush()

    def document(self, value: Any) -> None:
        """A JSON document, in a line of ASCII."""
        self.line(json.dumps(value))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Cell | str]], elastic: Sequence[str] = ()) -> None:
        """A table, as wide as the terminal where it is one."""
        columns = shutil.get_terminal_size().columns if self.is_terminal else None
        lines = table(header, rows, columns=columns, has_colours=self.has_colours, elastic=elastic)
        self.line("\n".join(lines))

    def paint(self, text: str, colour: str) -> str:
        """A printable text in a colour, where there are colours."""
        return painted(text, colour) if self.has_colours else text

    def complain(self, text: str) -> None:
        """A line on stderr. Nobody may be listening."""
        try:
            self._err.write(f"registryctl: {printable(text)}\n")
            self._err.flush()
        except OSError:
            pass
