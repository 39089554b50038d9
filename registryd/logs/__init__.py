"""What registryd tells on stderr: an entry per event, in the journal's own form where that is what reads it."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from registryd.logs import journal, lines
from registryd.logs.changes import ChangeLog, Gate, LogHandler
from registryd.logs.entries import Entry, Output, one_line
from registryd.systemd import is_journal

__all__ = ["ChangeLog", "cannot_start", "set_up"]


def set_up(level: str, form: str, environ: Mapping[str, str], stream: TextIO) -> ChangeLog:
    """Sends the log to `stream` from `level` on, in one of the forms of --log-format. Gives back what tells of changes
    there; the process should close that at its end."""
    # No line shows where in the code, by which thread or by which process it was written, so nobody need look. (From
    # "Optimization" in Python's manual of logging: it halves the cost of a line.)
    logging._srcfile = None  # noqa: SLF001 - the manual's own way
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    output = _output(form, environ, stream)
    gate = Gate(output)
    logging.basicConfig(handlers=[LogHandler(output, gate)], force=True)
    return ChangeLog(output, gate, level)


def cannot_start(why: str, form: str, environ: Mapping[str, str], stream: TextIO) -> str:
    """The line that says why registryd cannot start. For someone who starts it by hand, without time and level."""
    text = f"registryd: {why}"
    line = _render(form, environ, stream)(Entry(logging.CRITICAL, time.time(), text))
    return line if form == "json" or is_journal(stream.fileno(), environ) else one_line(text)


def _output(form: str, environ: Mapping[str, str], stream: TextIO) -> Output:
    written = lines.Lines(stream, _render(form, environ, stream))
    return (
        journal.Journal(written, journal.SOCKET) if form == "auto" and is_journal(stream.fileno(), environ) else written
    )


def _render(form: str, environ: Mapping[str, str], stream: TextIO) -> Callable[[Entry], str]:
    if form == "json":
        return lines.as_json
    return lines.prefixed if is_journal(stream.fileno(), environ) else lines.plain
