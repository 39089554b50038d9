"""The front desk: everyone who wants to know or to change something about instances asks here.

Every change has one shape: with the lock held, decide, store, commit, publish. Reads and heartbeats take no lock and
wait for nothing: in one event loop a step without an await is atomic, so none of them ever sees half a change.
"""

import asyncio
import itertools
import math
import os
import random
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from registryd.clock import Clock
from registryd.core.choice import Choice, choose
from registryd.core.errors import LimitReached, UnknownInstance
from registryd.core.history import History
from registryd.core.leases import Lease
from registryd.core.model import NOBODY, Change, Command, Deregister, Origin, Register, Resume, SetOverride, Update
from registryd.core.past import REMEMBERED_SECONDS
from registryd.core.services import Service, ServiceCount
from registryd.core.state import State
from registryd.feed import Feed
from registryd.store.base import Store

#: Leases that are expired in one step, before others get their turn.
SLICE = 200
#: For each so many watchers there is a turn of the loop between two slices, but no more than so many turns.
WATCHERS_PER_TURN, MOST_TURNS = 50, 40


def new_id() -> str:
    """A new UUID, version 4 (RFC 9562): what str(uuid.uuid4()) gives, in half the time."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


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
        self._next_end = -math.inf
        #: Whether leases have ended that have not been expired yet, as there are too many for one step.
        self.is_behind = False
        #: Turns of the loop until the next part.
        self._turns = 0
        #: How many are changing something or wait for their turn to do so.
        self._changing = 0

    # Changes. `origin` is who asks, for the history.

    async def register(self, command: Register, origin: Origin = NOBODY) -> Lease:
        """Lists an instance and gives back its lease. Without an instance_id it is a new one, under a new UUID;
        with one that is known the entry is taken over. Raises LimitReached."""
        if command.instance_id is None:
            command = msgspec.structs.replace(command, instance_id=new_id())
        changes = await self._change(command, origin)
        return self._state.lease(changes[-1].instance.instance_id)

    @property
    def changes_at_once(self) -> bool:
        """Whether a change would have to wait for nobody right now: neither for another change nor for the store."""
        return self._store.is_immediate and not self._changing

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
        if self.is_behind:
            self._settle_instance(instance_id, now)
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
            if lease is None or lease.expires_at <= now:
                unknown.append(instance_id)
            else:
                self._state.renew(lease, now, wall)
                renewed += 1
        self._renewed += renewed
        return renewed, unknown

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
        self._settle_instance(instance_id, self._settle())
        lease = self._state.lease(instance_id)
        if hand_out:
            self._hand_out((lease,))
        return lease

    def listing(self, service_name: str, *, hand_out: bool = True) -> Service | None:
        """A service, for a reader who takes all of its instances that are up; None where it has no instance."""
        now = self._settle()
        # The hottest call of all: where nothing is behind, it is spared another.
        service = self._settle_service(service_name, now) if self.is_behind else self._state.service(service_name)
        if service is None:
            return None
        if self.is_behind and (living := service.living(now)) is not service:
            if living is not None and hand_out:  # the list itself must not say so: it has others in it, too
                self._hand_out(lease for lease in living.leases.values() if lease.status == "up")
                living.listed_at = self._clock.wall()
            return living
        if hand_out:
            service.listings += 1
            service.listed_at = self._clock.wall()
        return service

    def choose(self, service_name: str, choice: Choice, *, hand_out: bool = True) -> list[Lease]:
        """The leases of a service's instances that a reader wants; none for a service that nobody has registered."""
        chosen = choose(self._leases_of(service_name), choice, self._dice)
        if hand_out:
            self._hand_out(chosen)
        return chosen

    def count(self, service_name: str, choice: Choice) -> int:
        """How many of a service's instances fit a choice, whatever its limit."""
        return sum(map(choice.fits, self._leases_of(service_name)))

    def snapshot(self, service_names: Iterable[str]) -> list[Lease]:
        """The leases of all instances of these services, or of all, for a watcher, whatever their status."""
        now = self._settle()
        names = list(dict.fromkeys(service_names))
        there = (lease for name in names for lease in self._state.leases(name)) if names else self._state.all_leases()
        leases = [lease for lease in there if lease.expires_at > now]
        self._hand_out(lease for lease in leases if lease.status == "up")
        return leases

    def services(self) -> dict[str, ServiceCount]:
        """Every service that has an instance, names sorted."""
        now = self._settle()
        return self._state.services(self._state.ended_leases(now) if self.is_behind else ())

    def index(self, service_name: str | None = None) -> int:
        """The number of the last change to a service, or to anything."""
        now = self._settle()
        if service_name is None:
            return self.feed.index
        self._settle_service(service_name, now)
        return self.feed.index_of(service_name)

    def tally(self, *, exact: bool = True) -> Tally:
        """The registry in numbers. To be `exact` while very many leases end takes a while."""
        now = self._settle()
        services, instances, expired = self._state.service_count(), len(self._state), self._expired
        if self.is_behind and exact:
            ended = self._state.ended_leases(now)
            services = len(self._state.services(ended))
            instances, expired = instances - len(ended), expired + len(ended)
        return Tally(services, instances, self.feed.watchers, self._renewed, expired)

    def stories(self, subject: str) -> list[Story]:
        """What is known of an instance, or of every instance of a service; nothing where neither was ever seen,
        or where they have been gone for an hour."""
        present = [lease.instance.instance_id for lease in self._leases_of(subject)]
        known = dict.fromkeys([subject, *present, *self._history.of_service(subject)])
        return [story for story in map(self._story, known) if story is not None]

    def told(self, changes: Iterable[Change]) -> None:
        """Watchers have been given the instances in these changes: those that are up, as nobody goes to the others."""
        leases = (self._state.find(change.instance.instance_id) for change in changes if change.status == "up")
        self._hand_out(lease for lease in leases if lease is not None)

    def _story(self, instance_id: str) -> Story | None:
        self._settle_instance(instance_id, self._clock.now())
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
        self._changing += 1
        try:
            return await self._change_in_turn(command, origin)
        finally:
            self._changing -= 1

    async def _change_in_turn(self, command: Command, origin: Origin) -> tuple[Change, ...]:
        async with self._lock:
            changes = self._decide(command, origin)
            if not changes:
                return ()
            numbered = await self._store.append(changes)
            now = self._clock.now()
            done = self._state.commit(numbered, now, self._clock.wall())
            self._next_end = self._state.next_end(now)
            self.feed.publish(done)
        if not done:  # its lease has ended while the store was at work
            raise UnknownInstance(changes[-1].instance.instance_id)
        return done

    def _decide(self, command: Command, origin: Origin) -> tuple[Change, ...]:
        now = self._settle()
        assert command.instance_id is not None
        self._settle_instance(command.instance_id, now)
        try:
            return self._state.decide(command, now, self._clock.wall(), origin)
        except LimitReached:
            if not self.is_behind:
                raise
        self._expire(self._state.ended(now, self._clock.wall()))  # there may be room, and nobody is told a lie
        return self._state.decide(command, now, self._clock.wall(), origin)

    def _settle(self) -> float:
        """Makes true what time has changed, so that whatever comes next meets the truth. Gives back now.

        Where very much has ended at once, only a part of it is expired, and the rest soon (`is_behind`): then whoever
        looks at a lease or a service has to settle that one, too."""
        now = self._clock.now()
        if self._next_end <= now and not self.is_behind:
            self._expire(self._state.ended(now, self._clock.wall(), SLICE))
            if self._next_end <= now:
                self.is_behind = True
                self._go_on_soon()
        elif self.is_behind:
            overrides = self._state.ended(now, self._clock.wall(), 0)
            if overrides:
                self._expire(overrides)
        return now

    def _go_on_soon(self) -> None:
        self._turns = min(MOST_TURNS, self.feed.watchers // WATCHERS_PER_TURN)
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Expires another part of what has ended, when the watchers have had the time to hear of the part before."""
        if self._turns > 0:
            self._turns -= 1
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        now = self._clock.now()
        self._expire(self._state.ended(now, self._clock.wall(), SLICE))
        self.is_behind = self._next_end <= now
        if self.is_behind:
            self._go_on_soon()

    def _settle_instance(self, instance_id: str, now: float) -> None:
        lease = self._state.find(instance_id)
        if lease is not None and lease.expires_at <= now:
            self._expire(self._state.expiries([lease], self._clock.wall()))

    def _settle_service(self, service_name: str, now: float) -> Service | None:
        """Gives back a service, if there is one. Where we are behind, a part of what has ended in it is expired first,
        so that its index tells that its list has changed; what else has ended must be left out."""
        service = self._state.service(service_name)
        if service is None or not self.is_behind:
            return service
        ended = (lease for lease in service.leases.values() if lease.expires_at <= now)
        some = list(itertools.islice(ended, SLICE))
        if some:
            self._expire(self._state.expiries(some, self._clock.wall()))
        return self._state.service(service_name)

    def _leases_of(self, service_name: str) -> Collection[Lease]:
        """The leases of a service that have not ended."""
        now = self._settle()
        service = self._settle_service(service_name, now)
        if service is not None and self.is_behind:
            service = service.living(now)
        return service.leases.values() if service else ()

    def _expire(self, ended: Sequence[Change]) -> None:
        """Makes changes true that time has brought."""
        now = self._clock.now()
        done = self._state.commit(self._store.record(ended), now, self._clock.wall())
        self._next_end = self._state.next_end(now)
        self._expired += sum(change.kind == "expired" for change in done)
        self.feed.publish(done)
