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

logger = logging.getLogger(__name__)

#: Python's levels as priorities of syslog(3), which the journal sorts and colours by.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class LineFormatter(logging.Formatter):
    """Renders a record as one line: tracebacks are folded, and nobody's input can start a line of its own."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s")
        self._journal = journal

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """RFC 3339, UTC, to the second."""
        return _time(int(record.created), datefmt or "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        """One line, without the newline."""
        line = super().format(record)
        if not line.isprintable():
            line = _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", line.replace("\n", " | "))
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{line}" if self._journal else line


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream. In an event loop those of one turn go out together, at its end: a thousand changes
    at once cost one system call. What someone should look at goes out at once, with all before it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a line in."""
        self._lines.append(self.format(record))
        if record.levelno < logging.WARNING:
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
def _time(second: int, form: str) -> str:
    return time.strftime(form, time.gmtime(second))


def set_up(level: str, environ: Mapping[str, str], stream: TextIO) -> None:
    """Sends the log to `stream` from `level` on."""
    # No line shows where in the code, by which thread or by which process it was written, so nobody need look. (From
    # "Optimization" in Python's manual of logging: it halves the cost of a line.)
    logging._srcfile = None  # noqa: SLF001 - the manual's own way
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = LineHandler(stream)
    handler.setFormatter(LineFormatter(journal=is_journal(stream.fileno(), environ)))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A reader who sends nonsense gets an answer; our log need not keep it, unless someone is looking for it.
    logging.getLogger("tornado.general").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def plain_line(text: str, environ: Mapping[str, str], stream: TextIO) -> str:
    """A line for someone who starts registryd by hand, without time and level; the journal gets its priority."""
    record = logging.LogRecord(__name__, logging.CRITICAL, __file__, 0, text, None, None)
    line = LineFormatter(journal=True).format(record)
    return line if is_journal(stream.fileno(), environ) else line.partition(">")[2]


def log_change(change: Change) -> None:
    """The line for an instance that appears, goes or is overridden, and why. What an instance reports of itself comes
    with heartbeats, perhaps with each: that is for those who look for it."""
    instance = change.instance
    logger.log(
        logging.DEBUG if change.is_report else logging.INFO,
        "%s service=%s instance=%s url=%s generation=%d index=%d reason=%r",
        change.kind,
        instance.service_name,
        instance.instance_id,
        instance.base_url,
        instance.generation,
        change.index,
        change.reason,
    )
