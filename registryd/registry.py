"""The front desk: everyone who wants to know or to change something about instances asks here.

Every change has one shape: with the lock held, decide, store, commit, publish. Reads and heartbeats take no lock and
wait for nothing: in one event loop a step without an await is atomic, so none of them ever sees half a change.
"""

import asyncio
import random
import uuid
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from registryd.clock import Clock
from registryd.core.choice import Choice, choose
from registryd.core.errors import UnknownInstance
from registryd.core.history import History
from registryd.core.leases import Lease
from registryd.core.model import NOBODY, Change, Command, Deregister, Origin, Register, Resume, SetOverride, Update
from registryd.core.past import REMEMBERED_SECONDS
from registryd.core.services import Service, ServiceCount
from registryd.core.state import State
from registryd.feed import Feed
from registryd.store.base import Store


class Tally(NamedTuple):
    """The registry in numbers: what is there now, and what has happened since the start."""

    services: int
    instances: int
    watchers: int
    renewed: int
    expired: int


class Story(NamedTuple):
    """What is known of one instance: its lease while it has one, and its last changes, the oldest first."""

    instance_id: str
    lease: Lease | None
    events: list[Change]


class Registry:
    """All instances of all services. Every answer is true at the moment it is given."""

    def __init__(self, state: State, store: Store, feed: Feed, clock: Clock, dice: random.Random | None = None) -> None:
        self._state = state
        self._store = store
        #: What has changed, and who waits for it.
        self.feed = feed
        self._clock = clock
        self._dice = dice or random.Random()  # noqa: S311 - it spreads load, it keeps no secret
        self._history = History()
        feed.subscribe(self._history.note)
        #: Held from the decision on a change until it is published, so that no two decisions cross.
        self._lock = asyncio.Lock()
        self._renewed = 0
        self._expired = 0
        #: A moment before which nothing ends: kept here because every call asks. A heartbeat never brings it forward.
        self._next_end = state.next_end()

    # Changes. `origin` is who asks, for the history.

    async def register(self, command: Register, origin: Origin = NOBODY) -> Lease:
        """Lists an instance and gives back its lease. Without an instance_id it is a new one, under a new UUID;
        with one that is known the entry is taken over. Raises LimitReached."""
        if command.instance_id is None:
            command = msgspec.structs.replace(command, instance_id=str(uuid.uuid4()))
        changes = await self._change(command, origin)
        return self._state.lease(changes[-1].instance.instance_id)

    @property
    def changes_at_once(self) -> bool:
        """Whether a change would have to wait for nobody right now: neither for another change nor for the store."""
        return self._store.is_immediate and not self._lock.locked()

    def register_at_once(self, command: Register, origin: Origin = NOBODY) -> Lease:
        """`register` in one step, while `changes_at_once`: for a caller who cannot wait. Raises LimitReached."""
        step = self.register(command, origin)
        try:
            step.send(None)
        except StopIteration as done:
            lease: Lease = done.value
            return lease
        finally:
            step.close()
        raise AssertionError("a change that waits for nobody is done in one step")

    async def update(self, command: Update, origin: Origin = NOBODY) -> Lease:
        """A heartbeat that reports something; gives back the lease. Raises UnknownInstance, StaleGeneration.

        The heartbeat counts at once, whatever the report has to wait for."""
        self.renew(command.instance_id, command.generation)
        await self._change(command, origin)
        return self._state.lease(command.instance_id)

    async def deregister(self, command: Deregister, origin: Origin = NOBODY) -> Change:
        """Takes an instance off the list; gives back the change, with the instance as it was.
        Raises UnknownInstance, StaleGeneration."""
        return (await self._change(command, origin))[-1]

    async def override(self, command: SetOverride | Resume, origin: Origin = NOBODY) -> Lease:
        """Lays an override over an instance, or takes it off; gives back the lease. Raises UnknownInstance."""
        await self._change(command, origin)
        return self._state.lease(command.instance_id)

    def renew(self, instance_id: str, generation: int | None = None) -> Lease:
        """A heartbeat: the lease runs for another ttl. Gives it back. Raises UnknownInstance, StaleGeneration."""
        now = self._settle()
        lease = self._state.lease(instance_id, generation)
        self._state.renew(lease, now, self._clock.wall())
        self._renewed += 1
        return lease

    def renew_all(self, instance_ids: Iterable[str]) -> tuple[int, list[str]]:
        """A heartbeat for each; gives back how many there were, and the ids that are unknown."""
        now, wall = self._settle(), self._clock.wall()
        renewed, unknown = 0, []
        for instance_id in instance_ids:
            lease = self._state.find(instance_id)
            if lease is None:
                unknown.append(instance_id)
            else:
                self._state.renew(lease, now, wall)
                renewed += 1
        self._renewed += renewed
        return renewed, unknown

    def settled(self) -> int:
        """Expires what has ended, and tells what time it is: whole seconds since 1970. Until the next await, whatever
        is seen of a service in any way is true."""
        self._settle()
        return self._clock.wall()

    def sweep(self) -> None:
        """Expires what has ended. Every other call does too: this one is for when nobody calls."""
        self._settle()

    def beat(self) -> None:
        """Shows the lease clock that we are awake; and where someone watches, he hears now of what has ended."""
        if self.feed.watchers:
            self._settle()
        else:
            self._clock.now()

    # Questions.

    # What they give to a reader is noted as handed out, unless he only asks whether there is anything.

    def lease(self, instance_id: str, *, hand_out: bool = True) -> Lease:
        """The lease of one instance, for a reader. Raises UnknownInstance."""
        self._settle()
        lease = self._state.lease(instance_id)
        if hand_out:
            self._hand_out((lease,))
        return lease

    def listing(self, service_name: str, *, hand_out: bool = True) -> Service | None:
        """A service, for a reader who takes all of its instances that are up; None where it has no instance."""
        self._settle()
        service = self._state.service(service_name)
        if service is not None and hand_out:
            service.listings += 1
            service.listed_at = self._clock.wall()
        return service

    def choose(self, service_name: str, choice: Choice, *, hand_out: bool = True) -> list[Lease]:
        """The leases of a service's instances that a reader wants; none for a service that nobody has registered."""
        self._settle()
        chosen = choose(self._state.leases(service_name), choice, self._dice)
        if hand_out:
            self._hand_out(chosen)
        return chosen

    def count(self, service_name: str, choice: Choice) -> int:
        """How many of a service's instances fit a choice, whatever its limit."""
        self._settle()
        return sum(map(choice.fits, self._state.leases(service_name)))

    def snapshot(self, service_names: Iterable[str]) -> list[Lease]:
        """The leases of all instances of these services, or of all, for a watcher, whatever their status."""
        self._settle()
        names = list(dict.fromkeys(service_names))
        leases = (
            [lease for name in names for lease in self._state.leases(name)] if names else [*self._state.all_leases()]
        )
        self._hand_out(lease for lease in leases if lease.status == "up")
        return leases

    def services(self) -> dict[str, ServiceCount]:
        """Every service that has an instance, names sorted."""
        self._settle()
        return self._state.services()

    def index(self, service_name: str | None = None) -> int:
        """The number of the last change to a service, or to anything."""
        self._settle()
        return self.feed.index if service_name is None else self.feed.index_of(service_name)

    def tally(self) -> Tally:
        """The registry in numbers."""
        self._settle()
        return Tally(self._state.service_count(), len(self._state), self.feed.watchers, self._renewed, self._expired)

    def stories(self, subject: str) -> list[Story]:
        """What is known of an instance, or of every instance of a service; nothing where neither was ever seen,
        or where they have been gone for an hour."""
        self._settle()
        present = [lease.instance.instance_id for lease in self._state.leases(subject)]
        known = dict.fromkeys([subject, *present, *self._history.of_service(subject)])
        return [story for story in map(self._story, known) if story is not None]

    def told(self, changes: Iterable[Change]) -> None:
        """Watchers have been given the instances in these changes: those that are up, as nobody goes to the others."""
        leases = (self._state.find(change.instance.instance_id) for change in changes if change.status == "up")
        self._hand_out(lease for lease in leases if lease is not None)

    def _story(self, instance_id: str) -> Story | None:
        lease = self._state.find(instance_id)
        events = self._history.of(instance_id)
        if lease is None and (not events or self._clock.wall() - events[-1].at >= REMEMBERED_SECONDS):
            return None
        return Story(instance_id, lease, events)

    def _hand_out(self, leases: Iterable[Lease]) -> None:
        wall = self._clock.wall()
        for lease in leases:
            lease.given_at = wall

    async def _change(self, command: Command, origin: Origin) -> tuple[Change, ...]:
        """The one shape of a change. Gives back what has taken effect; where it raises, nothing has."""
        async with self._lock:
            changes = self._state.decide(command, self._settle(), self._clock.wall(), origin)
            if not changes:
                return ()
            numbered = await self._store.append(changes)
            done = self._state.commit(numbered, self._clock.now(), self._clock.wall())
            self._next_end = self._state.next_end()
            self.feed.publish(done)
        if not done:  # its lease has ended while the store was at work
            raise UnknownInstance(changes[-1].instance.instance_id)
        return done

    def _settle(self) -> float:
        """Makes true what time has changed, so that whatever comes next meets the truth. Gives back now."""
        now = self._clock.now()
        if self._next_end <= now:
            wall = self._clock.wall()
            ended = self._state.commit(self._store.record(self._state.ended(now, wall)), now, wall)
            self._next_end = self._state.next_end()
            self._expired += sum(change.kind == "expired" for change in ended)
            self.feed.publish(ended)
        return now
