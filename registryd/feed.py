"""What has changed last: the index of the whole registry and of each service, the latest changes, and who waits.

The index is one counter for everything (the store hands the numbers out). A service's own index is the number of
the last change to it, so that a reader of one list is not troubled by the others: a change wakes those who wait for
its service, those who wait for anything, and nobody else.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from registryd.core.errors import LimitReached
from registryd.core.limits import flag_of
from registryd.core.model import Change

Subscriber = Callable[[Change], None]

#: Changes that are kept for watchers who come back.
KEPT_CHANGES = 65_536
#: Services whose index is kept after they are gone.
KEPT_SERVICES = 100_000
#: Changes that may wait for a watcher to read them.
PENDING_CHANGES = 4_096


class Watcher:
    """Someone who is told of every change to some services, in order, each once.

    Changes wait in `pending` until they are taken; `on_ready` is called when the first one arrives. A watcher who
    leaves more than `PENDING_CHANGES` waiting is `overrun`: it gets no more and has to come back.
    """

    def __init__(self, services: Iterable[str], on_ready: Callable[["Watcher"], None]) -> None:
        #: None stands for every service.
        self.services: frozenset[str | None] = frozenset(services) or frozenset({None})
        self.on_ready = on_ready
        self.pending: deque[Change] = deque()
        self.overrun = False

    def wants(self, change: Change) -> bool:
        """Whether a change is to one of its services."""
        return None in self.services or change.instance.service_name in self.services

    def tell(self, change: Change) -> None:
        """Has a change wait for it."""
        if self.overrun:
            return
        self.pending.append(change)
        if len(self.pending) > PENDING_CHANGES:
            self.overrun = True
            self.pending.clear()
        elif len(self.pending) > 1:
            return
        self.on_ready(self)


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
        self._changes: deque[Change] = deque(maxlen=kept_changes)
        self._kept_since = index
        self._subscribers: list[Subscriber] = []
        self._most_watchers = most_watchers
        #: How many are waiting or watching.
        self.watchers = 0
        #: Who waits for the next change, and who watches all of them, by service; None: any. No entry is empty.
        self._waiting: dict[str | None, set[asyncio.Future[None]]] = {}
        self._watching: dict[str | None, dict[Watcher, None]] = {}
        self._closing = False

    def index_of(self, service_name: str) -> int:
        """A number since which this service has not changed; it never goes back."""
        return self._by_service.get(service_name, self._floor)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Has every later change passed to `subscriber`, which must not raise."""
        self._subscribers.append(subscriber)

    def publish(self, changes: Iterable[Change]) -> None:
        """Passes on changes that have come true. Their numbers must be higher than all before."""
        for change in changes:
            assert change.index > self.index, "the index never goes back"
            self.index = change.index
            self._keep(change)
            for subscriber in self._subscribers:
                subscriber(change)
            for service_name in (change.instance.service_name, None):
                for future in self._waiting.pop(service_name, ()):
                    if not future.done():
                        future.set_result(None)
                for watcher in self._watching.get(service_name, ()):
                    watcher.tell(change)

    @contextmanager
    def seat(self) -> Iterator[None]:
        """A place for one who waits or watches. Raises LimitReached where all are taken."""
        if self.watchers >= self._most_watchers:
            raise LimitReached(
                f"{self._most_watchers} are watching already ({flag_of('watchers')}); come back later, or ask without "
                "waiting",
            )
        self.watchers += 1
        try:
            yield
        finally:
            self.watchers -= 1

    async def changed(self, service_name: str | None) -> None:
        """Waits for the next change to a service, or to anything, or for `close`. Cancelling leaves nothing behind."""
        if self._closing:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(service_name, set())
        waiting.add(future)
        try:
            await future
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(service_name) is waiting:
                del self._waiting[service_name]

    def missed(self, watcher: Watcher, since: int) -> list[Change] | None:
        """What a watcher has missed since it knew everything up to `since`; None where that is not known any more, or
        is more than may wait for it."""
        if not self._kept_since <= since <= self.index:
            return None
        missed: deque[Change] = deque()
        for change in reversed(self._changes):
            if change.index <= since:
                break
            if watcher.wants(change):
                missed.appendleft(change)
        return list(missed) if len(missed) <= PENDING_CHANGES else None

    def attach(self, watcher: Watcher, missed: Iterable[Change] = ()) -> None:
        """Has a watcher told of what it has missed, and of every change from now on."""
        for service_name in watcher.services:
            self._watching.setdefault(service_name, {})[watcher] = None
        for change in missed:
            watcher.tell(change)

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
        if len(self._changes) == self._changes.maxlen:
            self._kept_since = self._changes[0].index
        self._changes.append(change)
        service_name = change.instance.service_name
        self._by_service[service_name] = change.index
        self._by_service.move_to_end(service_name)
        if len(self._by_service) > self._kept_services:
            _, self._floor = self._by_service.popitem(last=False)

    def check(self) -> None:
        """Raises AssertionError where someone who has left is still waited for."""
        assert self.watchers == 0, "nobody holds a seat"
        assert not self._waiting, "nobody waits"
        assert not self._watching, "nobody watches"
