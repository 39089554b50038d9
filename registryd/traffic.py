"""Requests that were answered: how many, by method, route and status, and how long it took. Plain numbers, as the hot
calls are counted here, too.

A route is a path as in /openapi.json, never one that was asked for: there is a bounded number of them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from registryd.histogram import Histogram

#: Seconds: from a hot call to a slow disk.
BOUNDS = (0.00001, 0.00005, 0.00025, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
#: In place of a route where a request came to none, and of a method that we do not know.
NO_ROUTE, NO_METHOD = "none", "other"

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Hot:
    """Answers of a hot call. Whoever answers counts them, in a plain number; one is timed now and then (to look at the
    clock twice would cost as much as to count a dozen), and stands for all since the last that was."""

    __slots__ = ("_count", "_durations", "_noted")

    def __init__(self, durations: Histogram, count: Callable[[], int]) -> None:
        self._durations = durations
        self._count = count
        self._noted = 0

    def sample(self, seconds: float) -> None:
        """One has taken so long."""
        count = self._count()
        self._durations.note(seconds, count - self._noted)
        self._noted = count

    def __len__(self) -> int:
        return self._count()


class Answers:
    """Answers to one method on one route with one status."""

    __slots__ = ("_count", "_hot", "durations")

    def __init__(self) -> None:
        self._count = 0
        self._hot: list[Hot] = []
        #: Of those that were begun and answered here, without the time for which the reader wanted to wait.
        self.durations = Histogram(BOUNDS)

    def note(self, seconds: float | None) -> None:
        """One more; None: it was refused before anyone has begun with it."""
        self._count += 1
        if seconds is not None:
            self.durations.note(seconds)

    def hot(self, count: Callable[[], int]) -> Hot:
        """Those of a hot call, of which there have been so many."""
        self._hot.append(Hot(self.durations, count))
        return self._hot[-1]

    def __len__(self) -> int:
        return self._count + sum(map(len, self._hot))


class Asked(NamedTuple):
    """What was asked, and how it was answered."""

    method: str
    route: str
    status: int


class Traffic:
    """All answers."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, int], Answers] = {}

    def note(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """A request is answered."""
        answers = self._answers.get((method, route, status))
        if answers is None:
            answers = self.answers(method, route, status)
        answers.note(seconds)

    def answers(self, method: str, route: str, status: int) -> Answers:
        """The answers of one kind."""
        return self._answers.setdefault(Asked(method if method in METHODS else NO_METHOD, route, status), Answers())

    def __iter__(self) -> Iterator[tuple[Asked, Answers]]:
        return ((Asked(*asked), answers) for asked, answers in self._answers.items() if len(answers))
