"""The two clocks: a lease clock that stands still while we could not hear heartbeats, and the wall clock for people.

And the IOLoop that runs on the monotonic clock. Tornado's own follows the wall clock: set that back by an hour, and
a PeriodicCallback does not come for an hour.
"""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from tornado.platform.asyncio import AsyncIOMainLoop

logger = logging.getLogger(__name__)

#: Seconds between two beats of the lease clock.
BEAT = 0.25
#: Seconds without a sign of life of our own after which we must have been away: stopped, suspended, or stuck.
AWAY = 1.0


class MonotonicIOLoop(AsyncIOMainLoop):
    """The IOLoop of the running asyncio loop, on that loop's monotonic time. Make it before anything asks for one."""

    def time(self) -> float:
        """Seconds on the clock of the asyncio loop."""
        return self.asyncio_loop.time()


class Clock(Protocol):
    """What the registry needs to know of time."""

    def now(self) -> float:
        """Seconds on the lease clock; never goes back."""

    def wall(self) -> int:
        """Whole seconds since 1970, UTC, for people."""


class LeaseClock:
    """A monotonic clock, less the time in which this process could not hear everyone.

    A heartbeat that was sent and could not be heard must not cost a lease, so time counts only while we hear. Whoever
    asks for the time shows that we are awake: where the last to ask was more than `AWAY` ago, the process was stopped,
    and all of the gap is lost. `now` finds that out by itself, because after a stop the first thing that happens may be
    a request. A `beat`, every `BEAT` seconds, shows that the loop has come round, so that what had been sent was read:
    time runs for at most `AWAY` after a beat, however many requests a busy loop answers meanwhile. And while we refuse
    those who come, there are no beats (`stand_still`). What is lost is added to every lease at once.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._awake = self._started = monotonic()
        #: The moment until which time runs without another beat.
        self._runs_until = self._awake + AWAY
        #: Seconds lost since the last beat, and while the process was stopped.
        self._lost_now = self._stopped = 0.0
        #: Seconds since 1970 at which the clock was made.
        self.started_wall = wall()
        #: How often we could not hear everyone, and for how many seconds in all.
        self.stalls = 0
        self.stalled_seconds = 0.0

    def now(self) -> float:
        """Seconds on the lease clock; never goes back."""
        moment = self._monotonic()
        if moment - self._awake > AWAY:
            self._stopped += moment - self._awake
            self._lose(moment - self._awake)
        elif moment > self._runs_until:
            self._lose(moment - max(self._awake, self._runs_until))
        self._awake = moment
        return moment - self.stalled_seconds

    def beat(self) -> None:
        """The loop has come round, and nobody is refused: whoever had something to say has been heard."""
        self.now()
        self._runs_until = self._awake + AWAY
        if self._lost_now:
            logger.warning(
                "stalled seconds=%.3f: could not hear every heartbeat, so every lease gets as much more",
                self._lost_now,
                extra={"event": "stalled", "seconds": round(self._lost_now, 3)},
            )
            self._lost_now = 0.0

    def stand_still(self) -> None:
        """Someone has been refused who may have come with a heartbeat: no time counts until the next beat."""
        self.now()
        self._runs_until = min(self._runs_until, self._awake)

    def wall(self) -> int:
        """Whole seconds since 1970, UTC."""
        return int(self._wall())

    def uptime(self) -> float:
        """Seconds since the clock was made, stalls included."""
        return self._monotonic() - self._started

    def awake(self) -> float:
        """Seconds since the clock was made in which the process was not stopped."""
        self.now()
        return self._awake - self._started - self._stopped

    def _lose(self, seconds: float) -> None:
        self.stalls += not self._lost_now
        self._lost_now += seconds
        self.stalled_seconds += seconds
