"""Waiting for signals and for other threads at once."""

import contextlib
import select
import signal
import socket
from collections.abc import Sequence
from typing import Any, Self


class Wakings:
    """What a program waits for: these signals, which do nothing else, and other threads."""

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self._signals = signals
        self._reading, self._writing = socket.socketpair()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in self._signals:
            if signal.getsignal(number) is not signal.SIG_IGN:  # by whoever started us (nohup): for the command, too
                self._before[number] = signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._reading.close()
        self._writing.close()

    def fileno(self) -> int:
        """For select: there is something to `wait` for."""
        return self._reading.fileno()

    def wake(self) -> None:
        """Ends the waiting. Any thread may."""
        with contextlib.suppress(OSError):  # it is full, so it wakes anyhow; or nobody waits any more
            self._writing.send(b"\0")

    def wait(self, seconds: float | None) -> bytes:
        """The signals that have come; 0 is no signal."""
        if not select.select([self._reading], [], [], seconds)[0]:
            return b""
        return self._reading.recv(4096)
