"""Who is alive, and until when: O(1) per heartbeat, O(what has ended) per sweep, however many leases there are.

Leases of equal length sit in one ordered dict, the next to end in front, because a renewal moves to the end. One
heap over the fronts tells which of those dicts to look at. It holds lower bounds: a renewal never touches it, so a
bound that has passed is only checked against the real front and put right.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator

from msgspec import Struct

from registryd.core.model import Instance


class Lease(Struct, gc=False):
    """An instance and how long it still counts as alive. The only thing here that changes in place."""

    instance: Instance
    #: Wall clock, whole seconds since 1970, for people.
    last_heartbeat: int
    #: On the lease clock, in seconds. The instance is listed before this moment and not from it on.
    expires_at: float


class Leases:
    """All leases by instance id, in the order in which they end. `now` must never go back between two calls."""

    def __init__(self) -> None:
        self._by_id: dict[str, Lease] = {}
        #: The same leases by length of lease; no entry is empty. Each entry has at least one bound in _bounds.
        self._by_ttl: dict[float, OrderedDict[str, Lease]] = {}
        #: Heap of (a moment that no lease of this length ends before, length).
        self._bounds: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._by_id.values())

    def get(self, instance_id: str) -> Lease | None:
        """The lease of this instance, or None."""
        return self._by_id.get(instance_id)

    def grant(self, instance: Instance, now: float, wall: int) -> Lease:
        """Starts a lease that ends `instance.ttl` seconds from `now`; one under the same id is replaced."""
        self.drop(instance.instance_id)
        lease = Lease(instance, wall, now + instance.ttl)
        self._by_id[instance.instance_id] = lease
        queue = self._by_ttl.get(instance.ttl)
        if queue is not None:
            queue[instance.instance_id] = lease
        else:
            self._by_ttl[instance.ttl] = OrderedDict({instance.instance_id: lease})
            heapq.heappush(self._bounds, (lease.expires_at, instance.ttl))
            self._tidy()
        return lease

    def renew(self, lease: Lease, now: float, wall: int) -> None:
        """Lets a lease end `ttl` seconds from `now` instead."""
        instance = lease.instance
        lease.last_heartbeat = wall
        lease.expires_at = now + instance.ttl
        self._by_ttl[instance.ttl].move_to_end(instance.instance_id)

    def drop(self, instance_id: str) -> Lease | None:
        """Ends a lease at once; gives it back, or None where there was none."""
        lease = self._by_id.pop(instance_id, None)
        if lease is not None:
            queue = self._by_ttl[lease.instance.ttl]
            del queue[instance_id]
            if not queue:
                del self._by_ttl[lease.instance.ttl]
        return lease

    def next_end(self) -> float:
        """A moment before which no lease ends; infinity where there is none."""
        return self._bounds[0][0] if self._bounds else math.inf

    def ended(self, now: float) -> list[Lease]:
        """The leases that have ended by `now`, first those that ended first. Drops none of them."""
        ended: list[Lease] = []
        seen: dict[float, float] = {}
        while self._bounds and self._bounds[0][0] <= now:
            _, ttl = heapq.heappop(self._bounds)
            queue = self._by_ttl.get(ttl)
            if queue is None or ttl in seen:
                continue
            seen[ttl] = next(iter(queue.values())).expires_at
            for lease in queue.values():
                if lease.expires_at > now:
                    break
                ended.append(lease)
        for ttl, front in seen.items():
            heapq.heappush(self._bounds, (front, ttl))
        ended.sort(key=lambda lease: lease.expires_at)
        return ended

    def _tidy(self) -> None:
        """Forgets bounds of lengths that are no longer in use, before they outnumber the others."""
        if len(self._bounds) > 2 * len(self._by_ttl) + 16:
            self._bounds = [(next(iter(queue.values())).expires_at, ttl) for ttl, queue in self._by_ttl.items()]
            heapq.heapify(self._bounds)

    def check(self) -> None:
        """Raises AssertionError unless all that is said above holds."""
        queued = {instance_id: lease for queue in self._by_ttl.values() for instance_id, lease in queue.items()}
        assert queued == self._by_id, "each lease is queued under its id"
        bounds: dict[float, float] = {}
        for bound, ttl in self._bounds:
            bounds[ttl] = min(bound, bounds.get(ttl, math.inf))
        for ttl, queue in self._by_ttl.items():
            ends = [lease.expires_at for lease in queue.values()]
            assert ends, "no queue is empty"
            assert ends == sorted(ends), "the next to end is in front"
            assert bounds[ttl] <= ends[0], "a bound is never late"
            assert all(lease.instance.ttl == ttl for lease in queue.values()), "a lease is queued by its length"
