"""What registryd tells its service manager, and is given by it: sd_notify(3), the watchdog and sd_listen_fds(3), in a
few lines of standard library.

Without a service manager nothing of this does anything.
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tornado.ioloop import PeriodicCallback

logger = logging.getLogger(__name__)


class Notifier:
    """Sends states to the service manager at `address`; to nobody where it is None."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Notifier":
        """The notifier for the NOTIFY_SOCKET of this environment."""
        return cls(environ.get("NOTIFY_SOCKET") or None)

    def notify(self, *states: str) -> None:
        """Sends states such as READY=1, a datagram for all. A failure is logged: it must never stop the service."""
        if self._address is None:
            return
        # An abstract address begins with NUL, which the environment cannot carry, so it is written as @.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.sendto("\n".join(states).encode(), address)
        except OSError as error:
            logger.warning(
                "cannot notify the service manager at %s: %s",
                self._address,
                error,
                extra={"event": "manager_unreachable"},
            )


class Watchdog:
    """Feeds the service manager's watchdog from a timer of the loop itself, and only while `is_alive` says so.

    A stuck loop feeds nothing because the timer does not come; a dead sweep because it is asked for.
    """

    def __init__(self, notifier: Notifier, seconds: float | None, is_alive: Callable[[], bool]) -> None:
        self._notifier = notifier
        self._is_alive = is_alive
        # Three times per period: one feed may be late without harm.
        self._timer = PeriodicCallback(self.feed, seconds * 1000 / 3) if seconds else None

    def start(self) -> None:
        """Starts to feed, if there is a watchdog."""
        if self._timer is not None:
            self._timer.start()

    def stop(self) -> None:
        """Stops to feed."""
        if self._timer is not None:
            self._timer.stop()

    def feed(self) -> None:
        """Feeds once, or says why not."""
        if self._is_alive():
            self._notifier.notify("WATCHDOG=1")
        else:
            logger.error(
                "the sweep has stopped, so the watchdog is not fed and the service manager will restart us",
                extra={"event": "watchdog_starved"},
            )


class Handed(NamedTuple):
    """A file descriptor that the service manager has handed over, and the name that its unit gives it."""

    name: str
    descriptor: int


#: The first of them: 0, 1 and 2 are what they always are.
_FIRST_HANDED = 3


def handed_over(environ: Mapping[str, str], pid: int) -> list[Handed]:
    """What the service manager has handed over to the process `pid`, in its order (sd_listen_fds(3))."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not (count.isascii() and count.isdigit()):
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (int(count) - len(names))
    return [Handed(name, _FIRST_HANDED + n) for n, name in enumerate(names[: int(count)])]


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """The period within which the service manager wants to hear from us, in seconds; None where it does not."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdigit() and int(microseconds) > 0 else None


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether what is written to this file descriptor goes to systemd's journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        stat = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"
