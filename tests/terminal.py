"""The command line of registryctl as tests have it: run in the test itself, or in a terminal of its own."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from process import DEADLINE

CTL = (sys.executable, "-m", "registryd.ctl")


class Ran(NamedTuple):
    """What came of a command."""

    status: int
    out: str
    err: str


Ctl = Callable[..., Ran]


class Terminal:
    """A process in the foreground of a terminal of its own; ended at the end."""

    def __init__(self, argv: list[str], environ: dict[str, str], columns: int = 80, rows: int = 24) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(argv[0], argv, inherited | {"TERM": "xterm", "NO_COLOR": "", **environ})
            finally:
                os._exit(127)
        self.resize(columns, rows)
        self.output = ""
        self._status: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)
        assert "Traceback" not in self.output, self.output

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, regex: str) -> re.Match[str]:
        """The first match in what it has written since the last one."""
        end = time.monotonic() + DEADLINE
        while not (found := re.search(regex, self.output)):
            assert self._read(end), f"no {regex!r} in {self.output!r}"
        self.output = self.output[found.end() :]
        return found

    def wait(self) -> int:
        """Its exit status, or minus the signal that has ended it."""
        end = time.monotonic() + DEADLINE
        while self._read(end):
            pass
        if time.monotonic() >= end:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def _read(self, end: float) -> bool:
        """Reads what there is; False at the end of it, or when it is too late."""
        if not select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0]:
            return False
        data = b""
        with contextlib.suppress(OSError):  # so a terminal says that nobody has it open any more
            data = os.read(self._fd, 65536)
        self.output += data.decode()
        return bool(data)
