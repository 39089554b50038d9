"""The front desk: everyone who wants to know or to change something about instances asks here.

Every change has one shape: with the lock held, decide, store, commit, publish. Reads and heartbeats take no lock and
wait for nothing: in one event loop a step without an await is atomic, so none of them ever sees half a change.
"""

import asyncio
import uuid
from typing import NamedTuple

import msgspec

from registryd.clock import Clock
from registryd.core.errors import UnknownInstance
from registryd.core.leases import Lease
from registryd.core.model import Change, Command, Deregister, Register, Update
from registryd.core.state import ServiceCount, State
from registryd.feed import Feed
from registryd.store.base import Store


class Tally(NamedTuple):
    """The registry in numbers: what is there now, and what has happened since the start."""

    services: int
    instances: int
    renewed: int
    expired: int


class Registry:
    """All instances of all services. Every answer is true at the moment it is given."""

    def __init__(self, state: State, store: Store, feed: Feed, clock: Clock) -> None:
        self._state = state
        self._store = store
        self._feed = feed
        self._clock = clock
        #: Held from the decision on a change until it is published, so that no two decisions cross.
        self._lock = asyncio.Lock()
        self._renewed = 0
        self._expired = 0

    # Changes.

    async def register(self, command: Register) -> Lease:
        """Lists an instance and gives back its lease. Without an instance_id it is a new one, under a new UUID;
        with one that is known the entry is taken over. Raises LimitReached."""
        if command.instance_id is None:
            command = msgspec.structs.replace(command, instance_id=str(uuid.uuid4()))
        changes = await self._change(command)
        return self._state.lease(changes[-1].instance.instance_id)

    async def update(self, command: Update) -> Lease:
        """A heartbeat that reports something; gives back the lease. Raises UnknownInstance, StaleGeneration.

        The heartbeat counts at once, whatever the report has to wait for."""
        self.renew(command.instance_id, command.generation)
        await self._change(command)
        return self._state.lease(command.instance_id)

    async def deregister(self, command: Deregister) -> Change:
        """Takes an instance off the list; gives back the change, with the instance as it was.
        Raises UnknownInstance, StaleGeneration."""
        return (await self._change(command))[-1]

    def renew(self, instance_id: str, generation: int | None = None) -> Lease:
        """A heartbeat: the lease runs for another ttl. Gives it back. Raises UnknownInstance, StaleGeneration."""
        now = self._settle()
        lease = self._state.lease(instance_id, generation)
        self._state.renew(lease, now, self._clock.wall())
        self._renewed += 1
        return lease

    def sweep(self) -> None:
        """Expires what has ended. Every other call does too: this one is for when nobody calls."""
        self._settle()

    # Questions.

    def lease(self, instance_id: str) -> Lease:
        """The lease of one instance. Raises UnknownInstance."""
        self._settle()
        return self._state.lease(instance_id)

    def up(self, service_name: str) -> list[Lease]:
        """The leases of a service's instances that are up; none for a service that nobody has registered."""
        self._settle()
        return self._state.up(service_name)

    def services(self) -> dict[str, ServiceCount]:
        """Every service that has an instance, names sorted."""
        self._settle()
        return self._state.services()

    def index(self, service_name: str | None = None) -> int:
        """The number of the last change to a service, or to anything."""
        self._settle()
        return self._feed.index if service_name is None else self._feed.index_of(service_name)

    def tally(self) -> Tally:
        """The registry in numbers."""
        self._settle()
        return Tally(self._state.service_count(), len(self._state), self._renewed, self._expired)

    async def _change(self, command: Command) -> tuple[Change, ...]:
        """The one shape of a change. Gives back what has taken effect; where it raises, nothing has."""
        async with self._lock:
            self._settle()
            changes = self._state.decide(command, self._clock.wall())
            if not changes:
                return ()
            numbered = await self._store.append(changes)
            done = self._state.commit(numbered, self._clock.now(), self._clock.wall())
            self._feed.publish(done)
        if not done:  # its lease has ended while the store was at work
            raise UnknownInstance(changes[-1].instance.instance_id)
        return done

    def _settle(self) -> float:
        """Expires what has ended by now, so that whatever comes next meets the truth. Gives back now."""
        now = self._clock.now()
        if self._state.next_end() <= now:
            expired = self._state.commit(self._store.record(self._state.ended(now)), now, self._clock.wall())
            self._expired += len(expired)
            self._feed.publish(expired)
        return now
