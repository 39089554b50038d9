"""How much of us one address may take up, and all together: connections, requests, bytes that wait.

Nothing here knows HTTP, or closes anything by itself.
"""

import contextlib
import fcntl
import functools
import ipaddress
import itertools
import logging
import math
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: What stands for an address where there is none, as with a Unix socket.
NOWHERE = "0.0.0.0"  # noqa: S104 - nobody listens there
#: Seconds for which what was said once is not said again.
QUIET = 60.0
#: Bytes that may well be on the way to someone who reads what he is sent.
ON_THE_WAY = 64 * 1024
#: Headers of one request: each takes memory, however short it is.
MOST_HEADERS = 256
#: Connections of one place that are looked at for one that is idle.
LOOK = 100
#: Seconds in which whoever was refused, or cut off, for our own reasons is expected to come again.
AGAIN = 1.0
#: SO_LINGER of a connection that is reset when it is closed (socket(7)).
_RESET = struct.pack("ii", 1, 0)
#: Places whose requests are counted. When there are more, those that have asked nothing for a second are forgotten.
MOST_PLACES = 100_000


@functools.lru_cache(maxsize=4096)
def place_of(address: str) -> str:
    """Whom an address stands for: itself, or its network in IPv6, where each machine has 2^64 of them."""
    if ":" not in address:
        return address
    whole = ipaddress.IPv6Address(address.partition("%")[0])
    if whole.ipv4_mapped is not None:
        return str(whole.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(whole) >> 64 << 64)}/64"


def forget_unsent(sock: socket.socket | None) -> None:
    """Has the system drop what of a connection (None: that has gone) is not sent when it is closed. It would go on for
    minutes, with megabytes in its hands, to send what nobody reads."""
    if sock is not None:
        with contextlib.suppress(OSError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def unacknowledged(sock: socket.socket | None) -> int:
    """Bytes that the system has of a connection (None: that has gone), which its other side has not taken yet: SIOCOUTQ
    of tcp(7)."""
    if sock is None:
        return 0
    with contextlib.suppress(OSError, ValueError):  # it is closed already
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
        return int(count)
    return 0


class Rarely:
    """Warns of what goes on for long, or comes in masses: once, and then not again for a while."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        #: Until when nothing is said, by event.
        self._quiet_until: dict[str, float] = {}

    def warn(self, event: str, text: str, **fields: object) -> None:
        """Says so, unless it has been said lately."""
        now = self._clock()
        if now >= self._quiet_until.get(event, now):
            self._quiet_until[event] = now + QUIET
            self._log.warning(text, extra={"event": event, **fields})


class Crowd:
    """The connections of each place. There is always room for another: where there are `most`, an older one goes for
    it, so that whoever floods us floods out himself, and a heartbeat from the same place gets through."""

    def __init__(self, most: int) -> None:
        self.most = most
        #: How many had to go.
        self.crowded_out = 0
        #: The longest here first. No entry is empty.
        self._by_place: dict[str, dict[Any, None]] = {}
        self._rarely = Rarely(logger)

    def arrive(self, address: str, connection: T, is_idle: Callable[[T], bool]) -> list[T]:
        """One more is here; gives back those that are to go for it: one at most, unless there may be fewer by now."""
        if address == NOWHERE:
            return []
        place = place_of(address)
        there: dict[T, None] = self._by_place.setdefault(place, {})
        victims = []
        while len(there) >= self.most:
            victims.append(self._choose(there, is_idle))
            del there[victims[-1]]
        if victims:
            self.crowded_out += len(victims)
            self._rarely.warn(
                "crowded",
                f"{place} has {self.most} connections (--max-connections-per-address); for each that comes an idle one "
                "is closed, or else the oldest",
                peer=address,
            )
        there[connection] = None
        return victims

    def leave(self, address: str, connection: object) -> None:
        """One has gone."""
        place = place_of(address)
        there = self._by_place.get(place, {})
        there.pop(connection, None)
        if not there:
            self._by_place.pop(place, None)

    def _choose(self, there: dict[T, None], is_idle: Callable[[T], bool]) -> T:
        """One that is idle, if there is one among those that have been here the longest; else the first of all. So who
        has just come, with a heartbeat perhaps, is the last to go."""
        return next(filter(is_idle, itertools.islice(there, LOOK)), next(iter(there)))


class Rates:
    """How many requests each place may make: `most` a second (0: as many as it likes), and those of one second at
    once. A token bucket for each."""

    def __init__(self, most: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        #: Tokens that are left, and when that was so; by place.
        self._buckets: dict[str, tuple[float, float]] = {}
        #: How many requests were refused.
        self.refused = 0
        self._rarely = Rarely(logger, clock)
        #: Places whose last heartbeat for many was for none that is here.
        self._idle: set[str] = set()

    def keeps_leases(self, address: str) -> bool:
        """Whether a heartbeat for many from there, which may name whatever it likes, is likely to keep a lease."""
        return place_of(address) not in self._idle

    def note_renewals(self, address: str, count: int) -> None:
        """A heartbeat for many has come from there, and has renewed so many leases."""
        if count or not self.most:
            self._idle.discard(place_of(address))
        elif len(self._idle) < MOST_PLACES:
            self._idle.add(place_of(address))

    def take(self, address: str) -> bool:
        """Takes a token for a request, if there is one."""
        if not self.most or address == NOWHERE:
            return True
        place, now = place_of(address), self._clock()
        left, at = self._buckets.get(place, (float(self.most), now))
        left = min(float(self.most), left + (now - at) * self.most)
        if left < 1:
            return False
        if place not in self._buckets and len(self._buckets) >= MOST_PLACES:
            self._tidy(now)
        self._buckets[place] = left - 1, now
        return True

    def refuse(self, address: str) -> None:
        """A request is refused for want of a token."""
        self.refused += 1
        self._rarely.warn(
            "rate_limited",
            f"{place_of(address)} makes more than {self.most} requests a second (--max-requests-per-address); those "
            "beyond get a 429, but for heartbeats",
            peer=address,
        )

    def give_back(self, address: str) -> None:
        """The request that a token was taken for is to be counted elsewhere."""
        bucket = self._buckets.get(place_of(address))
        if bucket is not None:
            self._buckets[place_of(address)] = bucket[0] + 1, bucket[1]

    def _tidy(self, now: float) -> None:
        """Forgets buckets that are full again; all of them, where there are still too many."""
        self._buckets = {place: bucket for place, bucket in self._buckets.items() if now - bucket[1] < 1}
        if len(self._buckets) >= MOST_PLACES:
            self._buckets.clear()


class Waiting:
    """Bytes that wait for clients: of requests that are not here in full, and of answers that are not read. Where there
    are more than `most` in all, whoever has held some for the longest time has to go."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0
        #: How many were let go.
        self.let_go = 0
        #: Bytes that each holds, and what lets him go; the longest here first.
        self._held: dict[object, tuple[int, Callable[[], object]]] = {}
        self._rarely = Rarely(logger)

    def hold(self, who: object, size: int, let_go: Callable[[], object]) -> None:
        """Someone holds so many bytes now."""
        before, _ = self._held.get(who, (0, None))
        self.bytes += size - before
        self._held[who] = size, let_go
        while self.bytes > self.most and self._held:
            oldest, (size, end) = next(iter(self._held.items()))
            del self._held[oldest]
            self.bytes -= size
            self.let_go += 1
            self._rarely.warn(
                "too_much_waiting",
                f"more than {self.most} bytes wait for clients who do not read, or send slowly (--max-waiting-bytes); "
                "those are cut off who have kept us for the longest time",
            )
            end()

    def release(self, who: object) -> None:
        """Someone holds nothing any more."""
        size, _ = self._held.pop(who, (0, None))
        self.bytes -= size


class Bounds(Protocol):
    """How much is too much."""

    @property
    def connections(self) -> int: ...
    @property
    def connections_per_address(self) -> int: ...
    @property
    def requests_per_address(self) -> int: ...
    @property
    def waiting_bytes(self) -> int: ...


class Overload:
    """All of that. There are no more connections than file descriptors, whatever the bounds say."""

    def __init__(
        self, bounds: Bounds, descriptors: int = sys.maxsize, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._descriptors = descriptors
        self._clock = clock
        #: Has lease time stand still, until everyone is heard again.
        self.stand_still: Callable[[], object] = lambda: None
        self._hears_from = -math.inf
        self.crowd = Crowd(self._most_of_one(bounds))
        self.rates = Rates(bounds.requests_per_address)
        self.waiting = Waiting(bounds.waiting_bytes)

    def lose(self) -> None:
        """What may have been a heartbeat is refused or cut off for our own reasons: no time counts until whoever has
        sent it has had time to send it again."""
        self._hears_from = self._clock() + AGAIN
        self.stand_still()

    def hears(self) -> bool:
        """Whether nothing has been lost that has not had that time."""
        return self._clock() >= self._hears_from

    def take_bounds(self, bounds: Bounds) -> None:
        """Has these bounds from now on."""
        self.crowd.most = self._most_of_one(bounds)
        self.rates.most = bounds.requests_per_address
        self.waiting.most = bounds.waiting_bytes

    def _most_of_one(self, bounds: Bounds) -> int:
        """How many connections one address may have: never all, or it could keep everyone else out."""
        return min(bounds.connections_per_address, max(1, min(bounds.connections, self._descriptors) * 3 // 4))
