"""What is logged, before it has a form: an entry, and how one comes from a record of Python's logging."""

import functools
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

#: Python's levels as priorities of syslog(3), which the journal sorts and colours by.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
#: Control characters, and those that turn or hide text.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

Value = str | int | float | Sequence[str]


class Entry(NamedTuple):
    """Something that is told to whoever reads the log."""

    level: int
    #: Seconds since 1970.
    created: float
    message: str
    #: Its kind (see events.py); empty where it has none.
    event: str = ""
    #: What it is about, by name in lower case. A sequence is as many values of one name.
    fields: Mapping[str, Value] = {}
    #: The stack, where something has failed, and the error in a line.
    traceback: str = ""
    error: str = ""


class Output(Protocol):
    """Where entries go."""

    @property
    def lost(self) -> int:
        """How many it could not get rid of."""

    def write(self, entry: Entry) -> None:
        """Takes an entry in."""

    def flush(self) -> None:
        """Writes what there is, as far as that is possible without waiting."""

    def close(self) -> None:
        """The same at the end of the process, which may take a moment."""


#: What every record has, whatever was logged. The others are from `extra`.
_ALWAYS_THERE = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "event"}
_FORMATTER = logging.Formatter()


def of_record(record: logging.LogRecord) -> Entry:
    """The entry for a record. Where its `extra` names an event, the rest of that are its fields."""
    event = getattr(record, "event", "")
    fields = {name: value for name, value in vars(record).items() if name not in _ALWAYS_THERE} if event else {}
    traceback = error = ""
    if record.exc_info and record.exc_info[1] is not None:
        traceback = _FORMATTER.formatException(record.exc_info)
        error = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    return Entry(record.levelno, record.created, record.getMessage(), event, fields, traceback, error)


def priority(level: int) -> int:
    """A level as a priority of syslog(3)."""
    return _PRIORITIES.get(level, 6)


def one_line(text: str) -> str:
    """The text without anything that could end a line, or deceive who reads it."""
    if text.isprintable():
        return text
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text.replace("\n", " | "))


@functools.lru_cache(maxsize=2)
def rfc3339(second: int) -> str:
    """UTC, to the second, without the Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
