"""What registryd writes to stderr: one line per event, whatever is in it.

Lines for the journal begin with their priority (sd-daemon(3)) and leave the time to it; others begin with the time.
"""

import asyncio
import contextlib
import functools
import logging
import re
import time
from collections.abc import Mapping
from typing import TextIO

from registryd.core.model import Change
from registryd.systemd import is_journal

#: Python's levels as priorities of syslog(3), which the journal sorts and colours by.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class LineFormatter(logging.Formatter):
    """Renders a record as one line: tracebacks are folded, and nobody's input can start a line of its own."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line, without the newline."""
        return self.line(record.levelno, record.created, super().format(record))

    def line(self, level: int, created: float, text: str) -> str:
        """The same of what is in a record."""
        if not text.isprintable():
            text = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\n", " | "))
        if self._journal:
            return f"<{_PRIORITIES.get(level, 6)}>{text}"
        return f"{_time(int(created))} {logging.getLevelName(level)} {text}"


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream. In an event loop those of one turn go out together, at its end: a thousand changes
    at once cost one system call. What someone should look at goes out at once, with all before it."""

    def __init__(self, stream: TextIO, formatter: LineFormatter) -> None:
        super().__init__(stream)
        self._formatter = formatter
        self.setFormatter(formatter)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record in."""
        self._take(record.levelno, self._formatter.format(record))

    def write(self, level: int, text: str) -> None:
        """Takes in what is to be a line, without a record of it. From the thread of the event loop only."""
        self._take(level, self._formatter.line(level, time.time(), text))

    def _take(self, level: int, line: str) -> None:
        self._lines.append(line)
        if level < logging.WARNING:
            if len(self._lines) > 1:
                return
            with contextlib.suppress(RuntimeError):  # there is no loop, or not any more
                asyncio.get_running_loop().call_soon(self.flush)
                return
        self.flush()

    def flush(self) -> None:
        """Writes what there is."""
        with self.lock or contextlib.nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                with contextlib.suppress(OSError, ValueError):  # nobody reads us any more, and where could we say so
                    self.stream.write("\n".join(lines) + "\n")
                    self.stream.flush()


@functools.lru_cache(maxsize=2)
def _time(second: int) -> str:
    """RFC 3339, UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


class ChangeLog:
    """Writes the line for an instance that appears, goes or is overridden, and why. There may be tens of thousands in a
    second, so they go to the handler without a record of each: that takes a quarter of the time.

    What an instance reports of itself comes with heartbeats, perhaps with each: that is for those who look for it."""

    def __init__(self, handler: LineHandler, level: str) -> None:
        self._handler = handler
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Has the whole log written from this level on."""
        self._least = logging.getLevelName(level.upper())
        logging.getLogger().setLevel(self._least)
        # A reader who sends nonsense gets an answer; our log need not keep it, unless someone is looking for it.
        logging.getLogger("tornado.general").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)

    def note(self, change: Change) -> None:
        """Writes the line for a change."""
        level = logging.DEBUG if change.is_report else logging.INFO
        if level >= self._least:
            instance = change.instance
            self._handler.write(
                level,
                f"{change.kind} service={instance.service_name} instance={instance.instance_id} "
                f"url={instance.base_url} generation={instance.generation} index={change.index} "
                f"reason={change.reason!r}",
            )


def set_up(level: str, environ: Mapping[str, str], stream: TextIO) -> ChangeLog:
    """Sends the log to `stream` from `level` on. Gives back what writes changes there."""
    # No line shows where in the code, by which thread or by which process it was written, so nobody need look. (From
    # "Optimization" in Python's manual of logging: it halves the cost of a line.)
    logging._srcfile = None  # noqa: SLF001 - the manual's own way
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = LineHandler(stream, LineFormatter(journal=is_journal(stream.fileno(), environ)))
    logging.basicConfig(handlers=[handler], force=True)
    return ChangeLog(handler, level)


def plain_line(text: str, environ: Mapping[str, str], stream: TextIO) -> str:
    """A line for someone who starts registryd by hand, without time and level; the journal gets its priority."""
    record = logging.LogRecord(__name__, logging.CRITICAL, __file__, 0, text, None, None)
    line = LineFormatter(journal=True).format(record)
    return line if is_journal(stream.fileno(), environ) else line.partition(">")[2]
