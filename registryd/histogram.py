"""How long something takes, as numbers that cost little to keep: fixed bounds, and a plain list of counts."""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts how many numbers of seconds were within each bound and above the one before, and sums them up."""

    __slots__ = ("bounds", "counts", "seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        #: One for each bound, and one for what is above the last.
        self.counts = [0] * (len(bounds) + 1)
        self.seconds = 0.0

    def note(self, seconds: float, times: int = 1) -> None:
        """It has taken so long, once or more often."""
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.seconds += seconds * times
