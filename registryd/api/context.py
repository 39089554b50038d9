"""What the handlers are given: the registry, a reader for what is sent, and a view of the process."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from registryd.api.hosts import Hosts
from registryd.api.reader import Reader
from registryd.auth import Access
from registryd.histogram import Histogram
from registryd.overload import Overload
from registryd.registry import Registry
from registryd.traffic import Traffic

#: All the reasons there can be for something to need a human.
REASONS = (
    "recovering", "refuses_connections", "store_lagging", "store_slow", "store_unavailable", "suspects", "sweep_late",
)  # fmt: skip


@dataclass
class Vitals:
    """What nobody but the metrics tells of the process."""

    #: Which HTTP server it is, and how many connections it has.
    http_kind: str = ""
    connections: Callable[[], int] = int
    #: How late the beat of the loop came; nobody counts where there is no loop of our own.
    lag: Histogram | None = None
    #: Seconds that each write took, how many failed, and bytes on the disk; where there is a store that writes.
    writes: Histogram | None = None
    failed_writes: Callable[[], int] = int
    stored_bytes: Callable[[], int] = int
    #: How many watchers were cut off, and how many entries of the log were lost.
    watchers_cut_off: Callable[[], int] = int
    entries_lost: Callable[[], int] = int


@dataclass
class Daemon:
    """What can be told of the process itself. A reload may change the settings in it."""

    version: str
    #: Wall clock, whole seconds since 1970.
    started_wall: int
    heartbeat_timeout: float
    cleanup_interval: float
    store_kind: str
    #: Seconds since the start.
    uptime: Callable[[], float]
    #: How often we could not hear heartbeats, and for how many seconds in all.
    stalls: Callable[[], tuple[int, float]]
    #: How many connections were refused for want of room.
    connections_refused: Callable[[], int]
    #: What needs a human.
    reasons: Callable[[], list[str]]
    #: What serving needs and is not there.
    unready: Callable[[], list[str]]
    vitals: Vitals = field(default_factory=Vitals)


class UnderWay:
    """The requests that have begun to arrive and are not yet answered in full: those that a stop waits for."""

    def __init__(self) -> None:
        #: Each request with the connection that it came by. `request` is the HTTPConnection, of which Tornado makes one
        #: per request.
        self._requests: dict[object, object] = {}
        #: The same the other way round. No entry is empty.
        self._by_connection: dict[object, set[object]] = {}
        #: Those of them that have not arrived in full.
        self._arriving: set[object] = set()
        self._none, self._answered = asyncio.Event(), asyncio.Event()
        self._none.set()
        self._answered.set()

    def __len__(self) -> int:
        return len(self._requests)

    def begin(self, request: object, connection: object) -> None:
        """A request has begun to arrive."""
        self._requests[request] = connection
        self._by_connection.setdefault(connection, set()).add(request)
        self._arriving.add(request)
        self._none.clear()

    def arrived(self, request: object) -> None:
        """All of a request is here."""
        if request in self._arriving:
            self._arriving.discard(request)
            self._answered.clear()

    def is_on(self, connection: object) -> bool:
        """Whether a connection has any."""
        return connection in self._by_connection

    def end(self, request: object) -> None:
        """The answer has been handed to the system, or there is nobody left to have it."""
        connection = self._requests.pop(request, None)
        if connection is not None:
            of_connection = self._by_connection[connection]
            of_connection.discard(request)
            if not of_connection:
                del self._by_connection[connection]
        self._arriving.discard(request)
        if not self._requests:
            self._none.set()
        if not self.has_some(arrived=True):
            self._answered.set()

    def end_all(self, connection: object) -> None:
        """A connection has closed, with whatever was to be answered on it."""
        for request in list(self._by_connection.get(connection, ())):
            self.end(request)

    def has_some(self, *, arrived: bool = False) -> bool:
        """Whether there are any; or any that have arrived in full."""
        return len(self._requests) > (len(self._arriving) if arrived else 0)

    async def wait_until_none(self, *, arrived: bool = False) -> None:
        """Waits until there are none (any more: there may be new ones when whoever waits has his turn); or none that
        have arrived in full, as nobody knows how long the others take."""
        await (self._answered if arrived else self._none).wait()


@dataclass(frozen=True)
class Context:
    """What every handler is given, as the third part of its route."""

    registry: Registry
    reader: Reader
    daemon: Daemon
    under_way: UnderWay
    access: Access
    hosts: Hosts
    overload: Overload
    traffic: Traffic = field(default_factory=Traffic)
