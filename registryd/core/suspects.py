"""Whether it may be us who cannot be reached: how many leases of a service have gone silent, of how many.

In a cut between us and a service its leases end one after the other, and the first of them must be told from the end of
a single one. So it is not only those that have ended that are counted, but all that have not been heard for more than
half of their ttl: whoever sends a heartbeat each third of it is heard by then. They would end within one ttl.
"""

import heapq
import itertools
import math
from collections.abc import Collection

from msgspec import Struct

from registryd.core.leases import Lease

#: Fewer silent leases than these are no sign of a cut, whatever their share.
LEAST = 10
#: Seconds for which a verdict stands: to count takes a while, and of a large service very many leases may end at once.
STANDS = 0.25
#: Of more leases than these only each second is looked at, or each third, and so on: so that it never takes long.
MOST_COUNTED = 10_000


class Verdict(Struct, frozen=True, gc=False):
    """What becomes of the leases of a service that end until some moment, where there is no earlier verdict on them."""

    #: On the lease clock.
    until: float
    #: Leases that have gone silent, of so many; and how many of these it takes.
    silent: int
    of: int
    needed: int

    @property
    def is_suspicious(self) -> bool:
        """Whether they become suspects."""
        return self.silent >= self.needed


class Silence:
    """What is known of the silence of one service's leases, since the first of them has ended."""

    def __init__(self) -> None:
        #: The verdicts on leases that may still be here, the earliest first. Once there is one on a lease it stays: who
        #: asks before that lease's turn has come is told what will be true of it.
        self._verdicts: list[Verdict] = []
        #: Until when those that have expired count, by instance id and (or the heap is what has gone by) in order.
        self._expired: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []

    def note_expired(self, lease: Lease) -> None:
        """A lease has expired: it counts as silent for one ttl from its end on."""
        instance = lease.instance
        until = self._expired[instance.instance_id] = lease.expires_at + instance.ttl
        heapq.heappush(self._ends, (until, instance.instance_id))

    def note_back(self, instance_id: str) -> None:
        """Someone has registered under this id, so that nobody misses it."""
        self._expired.pop(instance_id, None)

    def count(self, leases: Collection[Lease], share: float, now: float) -> Verdict:
        """Counts anew, for leases that end from now on."""
        looked_at = silent = 0
        for lease in itertools.islice(leases, 0, None, 1 + len(leases) // MOST_COUNTED):
            looked_at += 1
            if lease.expires_at < now + lease.queue.ttl / 2 or lease.suspicion is not None:
                silent += 1
        if looked_at < len(leases):
            silent = round(silent / looked_at * len(leases))
        expired = self._expired_since(now)
        of = expired + len(leases)
        needed = math.ceil(round(share * of, 6))  # as 0.1 of 30 would be 3.0000000000000004
        return Verdict(now + STANDS, expired + silent, of, max(LEAST, needed))

    def verdict_on(self, ended_at: float) -> Verdict | None:
        """The verdict on a lease that has ended then, if there is one."""
        for verdict in self._verdicts:
            if verdict.until >= ended_at:
                return verdict
        return None

    def judge(self, leases: Collection[Lease], share: float, now: float, first_end: float) -> Verdict:
        """A verdict on those on which there is none. None of the leases that are here ends before `first_end`."""
        self._verdicts = [verdict for verdict in self._verdicts if verdict.until >= first_end]
        self._verdicts.append(self.count(leases, share, now))
        return self._verdicts[-1]

    def forget_verdicts(self) -> None:
        """There is another share now."""
        self._verdicts.clear()

    def _expired_since(self, now: float) -> int:
        """How many have expired that still count."""
        while self._ends and self._ends[0][0] <= now:
            until, instance_id = heapq.heappop(self._ends)
            if self._expired.get(instance_id) == until:
                del self._expired[instance_id]
        return len(self._expired)
