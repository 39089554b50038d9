"""What registryd tells its service manager, and is given by it: sd_notify(3), the watchdog and sd_listen_fds(3), in a
few lines of standard library.

Without a service manager nothing of this does anything.
"""

import logging
import os
import select
import socket
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from tornado.ioloop import PeriodicCallback

logger = logging.getLogger(__name__)

#: Seconds that the service manager may take to have room for a message, and to have worked off all of them.
SEND_SECONDS = 1.0
BARRIER_SECONDS = 5.0
#: Descriptors in one message: the kernel takes 253.
MOST_AT_ONCE = 200
#: Seconds between two looks at what the status line says.
STATUS_SECONDS = 5.0


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
        self._send(states, ())

    @property
    def has_manager(self) -> bool:
        """Whether there is anybody to tell."""
        return self._address is not None

    def store(self, name: str, descriptors: Sequence[int]) -> int:
        """Has the service manager keep descriptors over a restart, under a name; gives back how many of them, from the
        first on, it was sent. A failure is logged."""
        sent = 0
        while sent < len(descriptors):
            some = descriptors[sent : sent + MOST_AT_ONCE]
            if not self._send(("FDSTORE=1", f"FDNAME={name}"), some):
                break
            sent += len(some)
        return sent

    def remove(self, name: str) -> None:
        """Has the service manager close what it keeps under a name."""
        self.notify("FDSTOREREMOVE=1", f"FDNAME={name}")

    def wait_until_heard(self) -> None:
        """Waits until the service manager has worked off all that it was sent: it may not take in what comes from a
        process that has ended. Stops everything else meanwhile. A failure is logged."""
        reading, writing = os.pipe()
        try:
            was_sent = self._send(("BARRIER=1",), (writing,))
            os.close(writing)
            poll = select.poll()
            poll.register(reading, 0)  # it hangs up when the manager has closed the other end
            if was_sent and not poll.poll(BARRIER_SECONDS * 1000):
                logger.warning("the service manager does not say that it has taken in what it was sent")
        finally:
            os.close(reading)

    def _send(self, states: Iterable[str], descriptors: Sequence[int]) -> bool:
        if self._address is None:
            return False
        # An abstract address begins with NUL, which the environment cannot carry, so it is written as @.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(SEND_SECONDS)
                sock.connect(address)  # only so can it be waited for until there is room
                sock.sendmsg(["\n".join(states).encode()], rights)
        except OSError as error:
            logger.warning(
                "cannot notify the service manager at %s: %s",
                self._address,
                error,
                extra={"event": "manager_unreachable"},
            )
            return False
        return True


class StatusLine:
    """Tells the service manager how it goes, for `systemctl status`: at once, and then when that has changed."""

    def __init__(self, notifier: Notifier, describe: Callable[[], str]) -> None:
        self._notifier = notifier
        self._describe = describe
        self._told = ""
        self._timer = PeriodicCallback(self._tell, STATUS_SECONDS * 1000)

    def start(self, *states: str) -> None:
        """Tells it, after these states, and starts to look."""
        self.stop()
        self._told = self._describe()
        self._notifier.notify(*states, f"STATUS={self._told}")
        if self._notifier.has_manager:
            self._timer.start()

    def stop(self) -> None:
        """Stops to look."""
        self._timer.stop()

    def _tell(self) -> None:
        text = self._describe()
        if text != self._told:
            self._told = text
            self._notifier.notify(f"STATUS={text}")


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
