"""The journal's own protocol: an entry is a datagram of fields, so that it can be searched by them.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import socket
import termios
import time
from collections import deque

from registryd.logs.entries import Entry, Output, one_line, priority
from registryd.logs.events import MESSAGE_IDS

#: Where journald listens.
SOCKET = "/run/systemd/journal/socket"
#: Entries that wait while the journal takes none; seconds until it is asked again.
MOST_WAITING, AGAIN = 1000, 0.05
#: Seconds that the journal gets at the end of the process to take what is left.
PATIENCE = 2.0
#: Characters of a value in an entry that is too large as a whole.
LONGEST = 4096

_FULL = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}
_FOR_THE_BUFFER = 8 * 2**20


def encode(entry: Entry, longest: int | None = None) -> bytes:
    """An entry as a datagram; with `longest`, no value of it has more characters."""
    error = f": {entry.error}" if entry.error else ""
    fields: list[tuple[str, object]] = [
        ("MESSAGE", one_line(entry.message + error)),
        ("PRIORITY", priority(entry.level)),
        ("SYSLOG_IDENTIFIER", "registryd"),
        ("MESSAGE_ID", MESSAGE_IDS.get(entry.event, "")),
        ("REGISTRYD_EVENT", entry.event),
        ("REGISTRYD_TRACEBACK", entry.traceback),
    ]
    for name, value in entry.fields.items():
        values = value if isinstance(value, list | tuple) else [value]
        fields += [(f"REGISTRYD_{name.upper()}", one) for one in values]
    return b"".join(_field(name, str(value)[:longest]) for name, value in fields if value not in ("", None))


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return b"%b=%b\n" % (name.encode(), data)
    # With its length in front: whatever is in it, it cannot begin a field of its own.
    return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


class Journal:
    """Sends entries to the journal, and never waits for it: while it takes none they are kept, and beyond `most` of
    them lost and counted. While there is no journal they go to `otherwise`."""

    def __init__(self, otherwise: Output, path: str, *, most: int = MOST_WAITING, patience: float = PATIENCE) -> None:
        self._otherwise = otherwise
        self._path = path
        self._most = most
        self._patience = patience
        self._waiting: deque[Entry] = deque()
        #: How many were lost since it has last been said, and how many before that.
        self._lost = self._told_lost = 0
        self._again: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with contextlib.suppress(OSError):  # as much as there may be
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _FOR_THE_BUFFER)

    def write(self, entry: Entry) -> None:
        """Sends an entry, or keeps it."""
        if self._again is None:
            self._send_waiting()
        if not self._is_behind and self._send(entry):
            return
        if len(self._waiting) < self._most:
            self._waiting.append(entry)
        else:
            self._lost += 1
        self._try_again_later()

    def flush(self) -> None:
        """Sends what there is, as far as the journal takes it."""
        self._send_waiting()
        self._otherwise.flush()

    def close(self) -> None:
        """Waits, for a moment, until the journal has read everything.

        It finds out of which unit an entry is when it reads it, from the process that has sent it: if that has gone by
        then, nobody who asks for the unit gets to see its last words."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        end = time.monotonic() + self._patience
        self._send_waiting()
        # Behind the last entry goes nothing, which the journal reads, too, and ignores: then it is done with the entry.
        is_marked = False
        while time.monotonic() < end:
            is_marked = is_marked or (not self._is_behind and self._mark())
            if is_marked and not self._unread():
                break
            time.sleep(0.001)  # the loop has ended: there is nobody else whose turn it could be
            self._send_waiting()
        self._waiting.clear()
        self._otherwise.close()
        self._socket.close()

    @property
    def lost(self) -> int:
        """How many the journal has not taken, nor whoever gets them while there is none."""
        return self._lost + self._told_lost + self._otherwise.lost

    @property
    def _is_behind(self) -> bool:
        return bool(self._waiting or self._lost)

    def _send_waiting(self) -> None:
        while self._waiting:
            if not self._send(self._waiting[0]):
                return
            self._waiting.popleft()
        if self._lost and self._send(_loss(self._lost)):
            self._told_lost += self._lost
            self._lost = 0

    def _send(self, entry: Entry) -> bool:
        """False: the journal has no room for it now."""
        try:
            try:
                self._socket.sendto(encode(entry), self._path)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                self._socket.sendto(encode(entry, LONGEST), self._path)
        except OSError as error:
            if error.errno in _FULL:
                return False
            self._otherwise.write(entry)
        return True

    def _mark(self) -> bool:
        try:
            self._socket.sendto(b"", self._path)
        except OSError as error:
            return error.errno not in _FULL
        return True

    def _unread(self) -> int:
        """Bytes that the journal has not read yet (SIOCOUTQ, see unix(7))."""
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), "little")

    def _try_again_later(self) -> None:
        if self._again is None:
            with contextlib.suppress(RuntimeError):  # without a loop, the next entry tries
                self._again = asyncio.get_running_loop().call_later(AGAIN, self._try_again)

    def _try_again(self) -> None:
        self._again = None
        self._send_waiting()
        if self._is_behind:
            self._try_again_later()


def _loss(count: int) -> Entry:
    message = f"log entries lost count={count}: the journal did not take them in time"
    return Entry(logging.WARNING, time.time(), message, "entries_lost", {"count": count})
