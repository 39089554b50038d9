"""What `registryctl run` does next: the life of a command that is announced, without a process, a socket or a clock.

A shell tells what has happened (`signalled`, `left`, `ended`), does what comes back, and calls `due` after `wait`
seconds. The command is taken off the list before it is told to stop, and the registry, however it is, holds it up for
no longer than FAREWELL.
"""

import signal
from enum import Enum
from typing import NamedTuple

#: Signals that ask a command to stop.
STOPPING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
#: Signals that a terminal sends by itself to all that run in its foreground.
OF_A_TERMINAL = {signal.SIGINT, signal.SIGQUIT}
#: Seconds that taking it off the list may take: a registry answers in milliseconds or not at all.
FAREWELL = 5.0


class Leave(NamedTuple):
    """Take it off the list, and say `left` when that is done."""


class Pass(NamedTuple):
    """Send the command a signal."""

    number: signal.Signals


class Exit(NamedTuple):
    """End, as the command has: its exit status, or minus the signal that has ended it."""

    status: int


Action = Leave | Pass | Exit


class Phase(Enum):
    """Where a command stands."""

    #: It runs, and is on the list, or will be.
    RUNNING = "running"
    #: It is to stop, and is being taken off the list.
    LEAVING = "leaving"
    #: It is off the list, and has been told to stop.
    STOPPING = "stopping"
    #: It has ended, and is being taken off the list.
    ENDED = "ended"


class Supervisor:
    """One command. It goes on serving for `grace` seconds after it is off the list. `shares_terminal`: the terminal
    tells it by itself of Ctrl-C, as it does us."""

    def __init__(self, grace: float, *, shares_terminal: bool = False) -> None:
        self._grace = grace
        self._of_the_terminal = OF_A_TERMINAL if shares_terminal else set()
        self.phase = Phase.RUNNING
        self._is_left = False
        #: When the registry is waited for no longer.
        self._give_up_at: float | None = None
        self._status = 0
        self._pending = signal.SIGTERM
        #: When to go on in any case.
        self._due_at: float | None = None

    def signalled(self, number: signal.Signals, now: float) -> list[Action]:
        """We have been sent a signal. A second one that asks to stop is not kept waiting."""
        if self.phase is Phase.ENDED:
            return [Exit(self._status)] if number in STOPPING else []
        if number not in STOPPING:
            return [Pass(number)]
        if self.phase is Phase.RUNNING:
            return self._stop(number, now)
        self.phase, self._due_at = Phase.STOPPING, None
        return [] if number in self._of_the_terminal else [Pass(number)]

    def _stop(self, number: signal.Signals, now: float) -> list[Action]:
        if number in self._of_the_terminal:  # it knows already
            self.phase = Phase.STOPPING
            return self._leave(now)
        self.phase, self._pending = Phase.LEAVING, number
        actions = self._leave(now)
        self._due_at = self._give_up_at
        return actions

    def left(self, now: float, *, was_listed: bool) -> list[Action]:
        """It is off the list. Nobody can have it whom it was never given to."""
        self._is_left = True
        if self.phase is Phase.ENDED:
            return [Exit(self._status)]
        if self.phase is Phase.LEAVING:
            self._due_at = now + self._grace if was_listed else now
            return self.due(now)
        return []

    def ended(self, status: int, now: float) -> list[Action]:
        """The command has ended: with its exit status, or minus the signal that has ended it."""
        self._status = status
        if self._is_left:
            return [Exit(status)]
        self.phase = Phase.ENDED
        actions = self._leave(now)
        self._due_at = self._give_up_at
        return actions + self.due(now)

    def wait(self, now: float) -> float | None:
        """Seconds until something is due; None: it takes something to happen."""
        return None if self._due_at is None else max(0.0, self._due_at - now)

    def due(self, now: float) -> list[Action]:
        """What is due by now."""
        if self._due_at is None or now < self._due_at:
            return []
        self._due_at = None
        if self.phase is Phase.ENDED:
            return [Exit(self._status)]
        self.phase = Phase.STOPPING
        return [Pass(self._pending)]

    def _leave(self, now: float) -> list[Action]:
        if self._give_up_at is not None:
            return []
        self._give_up_at = now + FAREWELL
        return [Leave()]
