"""What has changed last: the index of the whole registry and of each service, the latest changes, and who waits.

The index is one counter for everything (the store hands the numbers out). A service's own index is the number of
the last change to it, so that a reader of one list is not troubled by the others: a change wakes those who wait for
its service, those who wait for anything, and nobody else.

Watchers share one ring of changes, each with a cursor into it: however many watch, and however slowly, a change is
kept once. A watcher whose cursor the ring has left behind has lost something, and is told so.
"""

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from registryd.core.errors import LimitReached
from registryd.core.limits import flag_of
from registryd.core.model import Change, ChangeKind, bulk

Subscriber = Callable[[Change], None]

#: Changes that are kept for watchers who are behind, or come back.
KEPT_CHANGES = 65_536
#: Bytes that their metadata and tags may take: fewer are kept where they take more.
KEPT_BULK = 64 * 1024 * 1024
#: Those who are woken before others get their turn: each of them asks, and is answered.
SLICE = 50
#: Services whose index is kept after they are gone.
KEPT_SERVICES = 100_000


class Kept(NamedTuple):
    """How many changes are kept, and bytes of their metadata and tags; each with how many may be."""

    changes: int
    most_changes: int
    bulk: int
    most_bulk: int


class Watcher:
    """Someone who is told of every change to some services, in order, each once.

    `on_ready` is called when there is something to be told; the watcher then takes it from the feed, bit by bit, until
    nothing is left.
    """

    def __init__(self, services: Iterable[str], on_ready: Callable[["Watcher"], None]) -> None:
        #: None stands for every service.
        self.services: frozenset[str | None] = frozenset(services) or frozenset({None})
        self.on_ready = on_ready
        #: It knows of every change up to this one.
        self.cursor = 0
        #: Whether there is something that it has not taken yet.
        self.is_behind = False


class Feed:
    """Knows the index, and passes every change on to whoever waits for it, once and in order."""

    def __init__(
        self,
        index: int,
        *,
        most_watchers: int = 20_000,
        kept_changes: int = KEPT_CHANGES,
        kept_services: int = KEPT_SERVICES,
    ) -> None:
        #: The number of the last change to anything.
        self.index = index
        self._kept_services = kept_services
        #: The number of the last change to each service, the longest unchanged first; of those that are gone too.
        self._by_service: OrderedDict[str, int] = OrderedDict()
        #: A service that is not in there has not changed since this one.
        self._floor = index
        #: The latest changes. Everything after _kept_since is in there.
        self._changes: deque[Change] = deque()
        self._kept_changes = kept_changes
        #: Bytes of their instances beyond what each takes.
        self._bulk = 0
        self._kept_since = index
        #: The same by service. No entry is empty.
        self._changes_of: dict[str, deque[Change]] = {}
        self._subscribers: list[Subscriber] = []
        self.most_watchers = most_watchers
        #: How many changes of each kind there were.
        self.published: dict[ChangeKind, int] = {"registered": 0, "updated": 0, "deregistered": 0, "expired": 0}
        #: How many are waiting or watching.
        self.watchers = 0
        #: Who waits for the next change, and who watches all of them, by service; None: any. No entry is empty.
        self._waiting: dict[str | None, set[asyncio.Future[None]]] = {}
        self._watching: dict[str | None, dict[Watcher, None]] = {}
        #: Those for whom there is something, but who have not been woken yet.
        self._waking: deque[asyncio.Future[None]] = deque()
        self._is_waking = False
        self._closing = False

    def index_of(self, service_name: str) -> int:
        """A number since which this service has not changed; it never goes back."""
        return self._by_service.get(service_name, self._floor)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Has every later change passed to `subscriber`, which must not raise."""
        self._subscribers.append(subscriber)

    def publish(self, changes: Sequence[Change]) -> None:
        """Passes on changes that have come true. Their numbers must be higher than all before."""
        for change in changes:
            assert change.index > self.index, "the index never goes back"
            self.index = change.index
            self.published[change.kind] += 1
            self._keep(change)
            for subscriber in self._subscribers:
                subscriber(change)
        if self._waiting or self._watching:
            self._tell(changes)

    def _tell(self, changes: Sequence[Change]) -> None:
        """Tells those who wait, and those who watch, that there is something for them."""
        first: dict[str | None, int] = {}
        for change in changes:
            first.setdefault(None, change.index)
            first.setdefault(change.instance.service_name, change.index)
        for service_name, index in first.items():
            self._waking.extend(self._waiting.pop(service_name, ()))
            for watcher in self._watching.get(service_name, ()):
                self._rouse(watcher, index)
        if self._waking and not self._is_waking:
            self._wake()

    def _wake(self) -> None:
        """Wakes a slice of those who have waited, and then lets others have their turn."""
        for _ in range(min(SLICE, len(self._waking))):
            future = self._waking.popleft()
            if not future.done():
                future.set_result(None)
        self._is_waking = bool(self._waking)
        if self._is_waking:
            asyncio.get_running_loop().call_soon(self._wake)

    @contextmanager
    def seat(self) -> Iterator[None]:
        """A place for one who waits or watches. Raises LimitReached where all are taken."""
        if self.watchers >= self.most_watchers:
            raise LimitReached(
                f"{self.most_watchers} are watching already ({flag_of('watchers')}); come back later, or ask without "
                "waiting",
            )
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1

    def changed(self, service_name: str | None) -> "asyncio.Future[None]":
        """A future that is done at the next change to a service, or to anything, or at `close`: from this very moment
        on, so that nothing is missed between a look at how things are and the wait. `forget` it when it is not wanted
        any more."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closing:
            future.set_result(None)
        else:
            self._waiting.setdefault(service_name, set()).add(future)
        return future

    def forget(self, service_name: str | None, future: "asyncio.Future[None]") -> None:
        """Lets go of a future that `changed` has given."""
        waiting = self._waiting.get(service_name, set())
        waiting.discard(future)
        if not waiting:
            self._waiting.pop(service_name, None)

    @property
    def kept(self) -> Kept:
        """The latest changes, which are there for watchers who are behind."""
        return Kept(len(self._changes), self._kept_changes, self._bulk, KEPT_BULK)

    def knows_since(self, services: Iterable[str | None], index: int) -> bool:
        """Whether all that has happened to these services since `index` is still here."""
        if index > self.index:
            return False
        if index >= self._kept_since:
            return True
        return all(name is not None and self.index_of(name) <= index for name in services)

    def attach(self, watcher: Watcher, since: int) -> None:
        """Has a watcher told of every change after `since`, which must be known."""
        watcher.cursor = since
        for service_name in watcher.services:
            self._watching.setdefault(service_name, {})[watcher] = None
        for service_name in watcher.services:
            last = self.index if service_name is None else self.index_of(service_name)
            if last > since:
                self._rouse(watcher, since + 1)

    def take(self, watcher: Watcher, most: int) -> list[Change] | None:
        """What a watcher is to be told next, at most so many changes; nothing where it is up to date. None where the
        ring has left it behind."""
        if watcher.is_behind and watcher.cursor < self._kept_since:
            return None
        logs = (self._changes if name is None else self._changes_of.get(name) for name in watcher.services)
        after = [_after(log, watcher.cursor) for log in logs if log]
        changes = after[0] if len(after) == 1 else list(heapq.merge(*after, key=lambda change: change.index))
        taken = changes[:most]
        watcher.is_behind = len(taken) < len(changes)
        if taken:
            watcher.cursor = taken[-1].index
        return taken

    def _rouse(self, watcher: Watcher, index: int) -> None:
        """Tells a watcher that there is something from `index` on. Until then it knew everything before."""
        if not watcher.is_behind:
            watcher.is_behind = True
            watcher.cursor = max(watcher.cursor, index - 1)
            watcher.on_ready(watcher)

    def detach(self, watcher: Watcher) -> None:
        """Tells a watcher nothing any more."""
        for service_name in watcher.services:
            watching = self._watching.get(service_name, {})
            watching.pop(watcher, None)
            if not watching:
                self._watching.pop(service_name, None)

    @property
    def is_closing(self) -> bool:
        """Whether those who wait should be sent home."""
        return self._closing

    def close(self) -> None:
        """Wakes everyone who waits, now and from now on."""
        self._closing = True
        for service_name in list(self._waiting):
            for future in self._waiting.pop(service_name):
                if not future.done():
                    future.set_result(None)

    def _keep(self, change: Change) -> None:
        service_name = change.instance.service_name
        self._changes.append(change)
        of_service = self._changes_of.get(service_name)
        if of_service is None:
            of_service = self._changes_of[service_name] = deque()
        of_service.append(change)
        self._bulk += bulk(change.instance)
        while len(self._changes) > self._kept_changes or self._bulk > KEPT_BULK:
            self._drop_oldest()
        self._by_service[service_name] = change.index
        self._by_service.move_to_end(service_name)
        if len(self._by_service) > self._kept_services:
            _, self._floor = self._by_service.popitem(last=False)

    def _drop_oldest(self) -> None:
        oldest = self._changes.popleft()
        self._bulk -= bulk(oldest.instance)
        self._kept_since = oldest.index
        of_service = self._changes_of[oldest.instance.service_name]
        of_service.popleft()
        if not of_service:
            del self._changes_of[oldest.instance.service_name]

    def check(self) -> None:
        """Raises AssertionError where someone who has left is still waited for."""
        assert self.watchers == 0, "nobody holds a seat"
        assert not self._waiting, "nobody waits"
        assert not self._waking, "nobody is to be woken"
        assert not self._watching, "nobody watches"


def _after(log: deque[Change], index: int) -> list[Change]:
    """The changes in a log after an index, at the cost of those alone."""
    found: list[Change] = []
    for change in reversed(log):
        if change.index <= index:
            break
        found.append(change)
    found.reverse()
    return found
