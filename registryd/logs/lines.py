"""One line per entry, whatever is in it, on a stream: plain, with a priority, or JSON."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import TextIO

import msgspec

from registryd.logs.entries import CONTROL, Entry, one_line, priority, rfc3339


def plain(entry: Entry) -> str:
    """For people: the time, the level, and what there is to say. A stack is folded into the line."""
    return f"{rfc3339(int(entry.created))}Z {logging.getLevelName(entry.level)} {_text(entry)}"


def prefixed(entry: Entry) -> str:
    """For the journal, which has the time by itself: the priority (sd-daemon(3)), and what there is to say."""
    return f"<{priority(entry.level)}>{_text(entry)}"


def as_json(entry: Entry) -> str:
    """For programs: an object. What could deceive who reads it is escaped, so it can be shown as it is."""
    told: dict[str, object] = {
        "time": f"{rfc3339(int(entry.created))}.{int(entry.created % 1 * 1000):03}Z",
        "level": logging.getLevelName(entry.level).lower(),
        "event": entry.event,
        "message": one_line(entry.message),
        "error": entry.error,
        "traceback": entry.traceback,
    }
    told = {name: value for name, value in told.items() if value != ""}
    told |= {name: value for name, value in entry.fields.items() if value != "" and name not in told}
    try:
        line = msgspec.json.encode(told, enc_hook=str).decode()
    except UnicodeEncodeError:  # half a character, which no JSON can carry
        line = msgspec.json.encode(_whole(told), enc_hook=str).decode()
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def _whole(value: object) -> object:
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(part) for part in value]
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _text(entry: Entry) -> str:
    return one_line(f"{entry.message}\n{entry.traceback}" if entry.traceback else entry.message)


class Lines:
    """Writes lines to a stream. In an event loop those of one turn go out together, at its end: many at once cost one
    system call. What someone should look at goes out at once, with all before it."""

    def __init__(self, stream: TextIO, render: Callable[[Entry], str]) -> None:
        self._stream = stream
        self._render = render
        self._lines: list[str] = []
        self.lost = 0
        self._lock = threading.Lock()

    def write(self, entry: Entry) -> None:
        """Takes an entry in."""
        self._lines.append(self._render(entry))
        if entry.level < logging.WARNING:
            if len(self._lines) > 1:
                return
            with contextlib.suppress(RuntimeError):  # there is no loop, or not any more
                asyncio.get_running_loop().call_soon(self.flush)
                return
        self.flush()

    def flush(self) -> None:
        """Writes what there is."""
        with self._lock:
            lines, self._lines = self._lines, []
            if lines:
                try:
                    self._stream.write("\n".join(lines) + "\n")
                    self._stream.flush()
                except (OSError, ValueError):  # nobody reads us any more, and where could we say so
                    self.lost += len(lines)

    def close(self) -> None:
        """The same."""
        self.flush()
