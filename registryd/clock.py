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
    """A monotonic clock, less the time in which this process could not hear anyone.

    Whoever asks for the time proves that we are awake; the sweeper does, every `BEAT` seconds. Where the last proof is
    more than `AWAY` old, we were not, and the gap does not count: every lease has as much time left as it had then.
    `now` finds that out by itself, because after a stop the first thing that happens may be a request.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._awake = self._started = monotonic()
        #: Seconds since 1970 at which the clock was made.
        self.started_wall = wall()
        #: How often we were away, and for how many seconds in all.
        self.stalls = 0
        self.stalled_seconds = 0.0

    def now(self) -> float:
        """Seconds on the lease clock; never goes back."""
        moment = self._monotonic()
        if moment - self._awake > AWAY:
            self._stand_still(moment - self._awake)
        self._awake = moment
        return moment - self.stalled_seconds

    def wall(self) -> int:
        """Whole seconds since 1970, UTC."""
        return int(self._wall())

    def uptime(self) -> float:
        """Seconds since the clock was made, stalls included."""
        return self._monotonic() - self._started

    def _stand_still(self, seconds: float) -> None:
        self.stalls += 1
        self.stalled_seconds += seconds
        logger.warning(
            "stalled seconds=%.3f: could not hear heartbeats, so every lease gets as much more",
            seconds,
            extra={"event": "stalled", "seconds": round(seconds, 3)},
        )
