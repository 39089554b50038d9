"""The PeriodicCallback that expires what has ended when nobody asks, and the proof that it still comes."""

from collections.abc import Callable

from tornado.ioloop import PeriodicCallback

from registryd.clock import BEAT, LeaseClock
from registryd.histogram import Histogram
from registryd.registry import Registry

#: Seconds: bounds of how late a beat may come.
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Sweeper:
    """Sweeps every `interval` seconds, on the current IOLoop, and keeps the beat in between: of the registry, and of
    the clock while it `hears` everyone."""

    def __init__(
        self, registry: Registry, clock: LeaseClock, interval: float, hears: Callable[[], bool] = lambda: True
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._interval = interval
        self._hears = hears
        self._swept_at = clock.awake()
        #: How late beats came, which is how long others have kept the loop; and when the last one came.
        self.lag = Histogram(LAGS)
        self._beaten_at = clock.uptime()
        self._sweep_timer = PeriodicCallback(self.sweep, interval * 1000)
        self._beat_timer = PeriodicCallback(self._beat, BEAT * 1000)

    def start(self) -> None:
        """Starts both timers."""
        self._beaten_at = self._clock.uptime()
        self._sweep_timer.start()
        self._beat_timer.start()

    def stop(self) -> None:
        """Stops both timers."""
        self._sweep_timer.stop()
        self._beat_timer.stop()

    def sweep_every(self, interval: float) -> None:
        """Sweeps at this interval from now on."""
        self._sweep_timer.stop()
        self._interval, self._swept_at = interval, self._clock.awake()
        self._sweep_timer = PeriodicCallback(self.sweep, interval * 1000)
        self._sweep_timer.start()

    def sweep(self) -> None:
        """Expires what has ended."""
        self._registry.sweep()
        self._swept_at = self._clock.awake()

    def is_alive(self) -> bool:
        """Whether the last sweep is no further back than two intervals and a second, not counting time in which the
        whole process stood still: a sweep could not come then, and comes now."""
        return self._clock.awake() - self._swept_at <= 2 * self._interval + 1

    def _beat(self) -> None:
        now = self._clock.uptime()
        self.lag.note(max(0.0, now - self._beaten_at - BEAT))
        self._beaten_at = now
        if self._hears():
            self._clock.beat()
        self._registry.beat()
