"""Who is alive, and until when: O(1) per heartbeat, O(what has ended) per sweep, however many leases there are.

Leases of equal length stand in one queue, the next to end in front, because a renewal goes to the back. A queue is a
ring of links through the leases themselves: at a million leases a renewal takes two thirds of the time that an
OrderedDict takes, which would look every id up once more. One heap over the fronts tells which queues to look at. It
holds lower bounds: a renewal never touches it, so a bound that has passed is only checked against the real front and
put right.

A suspect is a lease that has ended and runs for one more ttl. Its new end may come before those of many that were heard
later than it, so suspects stand in queues of their own. As they come there in the order of their ends, those are in
order, too.
"""

import heapq
import math
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from registryd.core.model import Instance, Override, Status, Suspicion, bulk

#: Bounds that are put right in one go.
MOST_PUT_RIGHT = 200


class _Link(Struct, gc=False, eq=False, kw_only=True):
    """A place in a ring. Whoever is in one sets both; they are None only outside."""

    before: "_Link" = None  # type: ignore[assignment]
    after: "_Link" = None  # type: ignore[assignment]


class _Queue(_Link, gc=False, eq=False):
    """The leases of one length, or the suspects among them: a ring in which it is itself the link between the last and
    the first."""

    ttl: float
    #: What it is found by: its ttl, or minus that, where it is one of suspects.
    key: float

    def __iter__(self) -> Iterator["Lease"]:
        link = self.after
        while isinstance(link, Lease):
            yield link
            link = link.after


class Listing(Struct, gc=False, eq=False, kw_only=True):
    """A list in which leases stand, as far as a lease has to know of it. Who reads the list is given all in it that are
    up, so that is noted here, once, and not at each of them."""

    #: How often it was handed out, and when last: wall clock, whole seconds since 1970.
    listings: int = 0
    listed_at: int = 0
    #: What faces have rendered of it, by names of their own; forgotten when anything shown in it changes.
    rendered: dict[str, Any] | None = None


class Lease(_Link, gc=False, eq=False, kw_only=True):
    """An instance and how long it still counts as alive. The only thing here that changes in place."""

    instance: Instance
    #: Wall clock, whole seconds since 1970, for people.
    last_heartbeat: int
    #: On the lease clock, in seconds. The instance is listed before this moment and not from it on.
    expires_at: float
    override: Override | None = None
    #: The effective status: what the instance reports, unless there is an override.
    status: Status = "up"
    #: When a reader was last given it by itself, and how often its list had been handed out when it came to be up.
    given_at: int = 0
    unseen_listings: int = 0
    #: Whether it comes from a former life of the registry, and no heartbeat has come since.
    is_restored: bool = False
    #: Why it is suspect, if it is.
    suspicion: Suspicion | None = None
    #: The list in which it stands; belongs to Services.
    listing: Listing
    #: What a face has rendered of it; forgotten when anything about it changes.
    rendered: bytes | None = None
    #: Where it stands in line; belongs to Leases.
    queue: _Queue

    @property
    def handed_out_at(self) -> int:
        """When a reader was last given it, by itself or in its list: wall clock; 0: never."""
        if self.status == "up" and self.listing.listings > self.unseen_listings:
            return max(self.given_at, self.listing.listed_at)
        return self.given_at

    def touch(self) -> None:
        """Forgets what was rendered of it, and of its list."""
        self.rendered = None
        self.listing.rendered = None

    def __repr__(self) -> str:
        return f"Lease({self.instance!r}, last_heartbeat={self.last_heartbeat}, expires_at={self.expires_at})"


class Leases:
    """All leases by instance id, and in the order in which they end. `now` must never go back between two calls."""

    def __init__(self) -> None:
        self._by_id: dict[str, Lease] = {}
        #: The queues by their keys; none is empty. Each has at least one bound in _bounds.
        self._queues: dict[float, _Queue] = {}
        #: Heap of (a moment that no lease in this queue ends before, key of the queue).
        self._bounds: list[tuple[float, float]] = []
        #: How many are restored and have had no heartbeat since.
        self.restored = 0
        #: Bytes of their instances beyond what each takes.
        self.bulk = 0
        #: How many are suspects.
        self.suspects = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._by_id.values())

    def get(self, instance_id: str) -> Lease | None:
        """The lease of this instance, or None."""
        return self._by_id.get(instance_id)

    def grant(self, instance: Instance, listing: Listing, now: float, wall: int) -> Lease:
        """Starts a lease that ends `instance.ttl` seconds from `now`; one under the same id is replaced."""
        self.drop(instance.instance_id)
        ends = now + instance.ttl
        queue = self._open(instance.ttl, instance.ttl, ends)
        lease = Lease(instance=instance, last_heartbeat=wall, expires_at=ends, listing=listing, queue=queue)
        _append(queue, lease)
        self._by_id[instance.instance_id] = lease
        self.bulk += bulk(instance)
        return lease

    def restore(self, lease: Lease) -> None:
        """Marks a lease as one from a former life, until its next heartbeat."""
        lease.is_restored = True
        self.restored += 1

    def renew(self, lease: Lease, now: float, wall: int) -> None:
        """Lets a lease end its ttl from `now` on instead."""
        queue = lease.queue
        if lease.last_heartbeat != wall or lease.is_restored:
            self.restored -= lease.is_restored
            lease.is_restored = False
            lease.last_heartbeat = wall
            lease.touch()
        lease.expires_at = now + queue.ttl
        _remove(lease)
        _append(queue, lease)

    def change(self, lease: Lease, instance: Instance) -> None:
        """Has a lease be about an instance as it is now. Its length stays."""
        self.bulk += bulk(instance) - bulk(lease.instance)
        lease.instance = instance

    def suspect(self, lease: Lease, suspicion: Suspicion) -> None:
        """Lets a lease that has ended run for one more ttl from its end on. To be called in the order of their ends."""
        self._leave(lease)
        self.suspects += 1
        lease.suspicion = suspicion
        lease.expires_at += lease.instance.ttl
        self._enter(lease, -lease.instance.ttl)
        lease.touch()

    def hear(self, lease: Lease, now: float, wall: int) -> None:
        """Renews a suspect, which is none any more."""
        self._leave(lease)
        self.suspects -= 1
        lease.suspicion = None
        lease.expires_at = now + lease.instance.ttl
        self._enter(lease, lease.instance.ttl)
        lease.touch()
        self.renew(lease, now, wall)

    def drop(self, instance_id: str) -> Lease | None:
        """Ends a lease at once; gives it back, or None where there was none."""
        lease = self._by_id.pop(instance_id, None)
        if lease is not None:
            self.restored -= lease.is_restored
            self.bulk -= bulk(lease.instance)
            self.suspects -= lease.suspicion is not None
            self._leave(lease)
        return lease

    def _open(self, key: float, ttl: float, ends: float) -> _Queue:
        """The queue of this key, for a lease that ends then; a new one where there is none: the lease must enter it."""
        queue = self._queues.get(key)
        if queue is None:
            self._tidy()
            queue = self._queues[key] = _Queue(ttl=ttl, key=key)
            queue.before = queue.after = queue
            heapq.heappush(self._bounds, (ends, key))
        return queue

    def _enter(self, lease: Lease, key: float) -> None:
        lease.queue = self._open(key, lease.instance.ttl, lease.expires_at)
        _append(lease.queue, lease)

    def _leave(self, lease: Lease) -> None:
        """Takes a lease out of its queue, and the queue away with the last."""
        _remove(lease)
        lease.before = lease.after = None  # type: ignore[assignment] # or the two would keep each other alive
        queue = lease.queue
        if queue.after is queue:
            del self._queues[queue.key]
            queue.before = queue.after = None  # type: ignore[assignment]

    def next_end(self, now: float) -> float:
        """A moment before which no lease ends; infinity where there is none. One that has passed by `now` is the end of
        a lease that is still here (but for bounds of a mass of queues, which may take several calls to put right)."""
        for _ in range(MOST_PUT_RIGHT):
            if not self._bounds or self._bounds[0][0] > now:
                break
            bound, key = self._bounds[0]
            queue = self._queues.get(key)
            if queue is None:
                heapq.heappop(self._bounds)
            elif (front := _front(queue)) > bound:
                heapq.heapreplace(self._bounds, (front, key))
            else:
                break
        return self._first_bound([])

    def _first_bound(self, steps: list[tuple[float, float]]) -> float:
        """The first of all bounds, these among them."""
        first = self._bounds[0][0] if self._bounds else math.inf
        return min(first, steps[0][0]) if steps else first

    def ended(self, now: float, most: int | None = None) -> list[Lease]:
        """The leases that have ended by `now`, first those that ended first, and at most so many. Drops none."""
        ended: list[Lease] = []
        #: Where we are in each queue that we have looked at.
        places: dict[float, _Link] = {}
        steps: list[tuple[float, float]] = []
        while len(ended) != most and (bound := self._first_bound(steps)) <= now:
            _, key = heapq.heappop(steps if steps and steps[0][0] == bound else self._bounds)
            queue = self._queues.get(key)
            if queue is None:
                continue
            link = places.get(key, queue.after)
            others = min(now, self._first_bound(steps))  # as long as this queue has the next to end
            while isinstance(link, Lease) and link.expires_at <= others and len(ended) != most:
                ended.append(link)
                link = link.after
            places[key] = link
            if isinstance(link, Lease):
                heapq.heappush(steps, (link.expires_at, key))
        for key in places:
            heapq.heappush(self._bounds, (_front(self._queues[key]), key))
        return ended

    def _tidy(self) -> None:
        """Forgets bounds of queues that are no longer there, before they outnumber the others."""
        if len(self._bounds) > 2 * len(self._queues) + 16:
            self._bounds = [(_front(queue), key) for key, queue in self._queues.items()]
            heapq.heapify(self._bounds)

    def check(self) -> None:
        """Raises AssertionError unless all that is said above holds."""
        queued = {lease.instance.instance_id: lease for queue in self._queues.values() for lease in queue}
        assert queued == self._by_id, "each lease is queued under its id"
        assert self.restored == sum(lease.is_restored for lease in self), "restored leases are counted"
        assert self.bulk == sum(bulk(lease.instance) for lease in self), "bulk is counted"
        assert self.suspects == sum(lease.suspicion is not None for lease in self), "suspects are counted"
        bounds: dict[float, float] = {}
        for bound, key in self._bounds:
            bounds[key] = min(bound, bounds.get(key, math.inf))
        for key, queue in self._queues.items():
            ends = [lease.expires_at for lease in queue]
            assert ends, "no queue is empty"
            assert ends == sorted(ends), "the next to end is in front"
            assert bounds[key] <= ends[0], "a bound is never late"
            assert key == queue.key, "a queue is found by its key"
            for lease in queue:
                assert lease.queue is queue, "a lease knows its queue"
                assert lease.instance.ttl == queue.ttl == abs(key), "a lease stands in the queue of its length"
                assert (lease.suspicion is not None) == (key < 0), "suspects stand by themselves"
                assert lease.before.after is lease.after.before is lease, "a ring is whole"


def _front(queue: _Queue) -> float:
    """The moment at which the first lease in line ends."""
    return next(iter(queue)).expires_at


def _append(queue: _Queue, lease: Lease) -> None:
    last = queue.before
    last.after = queue.before = lease
    lease.before = last
    lease.after = queue


def _remove(lease: Lease) -> None:
    before, after = lease.before, lease.after
    before.after = after
    after.before = before
