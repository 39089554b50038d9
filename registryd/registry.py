"""The front desk: everyone who wants to know or to change something about instances asks here.

Every change has one shape: with the lock held, decide, store, commit, publish. Those who ask while the store is at work
wait, and are then served together, so that they share one write to the disk. Reads and heartbeats take no lock and wait
for nothing: in one event loop a step without an await is atomic, so none of them ever sees half a change.
"""

import asyncio
import heapq
import itertools
import math
import os
import random
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from registryd.clock import Clock
from registryd.core.access import EVERYONE, Caller
from registryd.core.choice import Choice, choose
from registryd.core.errors import LimitReached, UnknownInstance
from registryd.core.history import History
from registryd.core.leases import Lease
from registryd.core.model import (
    NOBODY,
    Change,
    Command,
    Deregister,
    Instance,
    Origin,
    Register,
    Resume,
    SetOverride,
    Status,
    Update,
)
from registryd.core.past import REMEMBERED_SECONDS
from registryd.core.services import Service, ServiceCount
from registryd.core.state import State
from registryd.core.suspects import Verdict
from registryd.feed import Feed
from registryd.store.base import Store

#: Leases that are expired in one step, before others get their turn.
SLICE = 200
#: Changes that share one write to the store at most: they are decided, and come true, in one step.
MOST_TOGETHER = 200
#: Services with suspects that are named.
MOST_SUSPECTED = 100
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
    #: Instances of a former life, without a heartbeat since.
    restored: int
    renewed: int
    expired: int


class Suspected(NamedTuple):
    """A service that has suspects: how many, and the arithmetic as it is now."""

    service_name: str
    listed: int
    suspects: int
    verdict: Verdict


class Renewals(NamedTuple):
    """What has come of a heartbeat for many: how many were renewed, and the ids that are unknown to the caller. Of
    these, so many are there, but not his to change."""

    renewed: int
    unknown: list[str]
    forbidden: int


class Story(NamedTuple):
    """What is known of one instance: its lease while it has one, and its last changes, the oldest first."""

    instance_id: str
    lease: Lease | None
    events: list[Change]

    @property
    def instance(self) -> Instance:
        """As it is, or was when it went."""
        return self.events[-1].instance if self.lease is None else self.lease.instance


class _Asked:
    """A change that someone asks for, and what comes of it."""

    #: Done when it is over, or its turn to serve all who have asked; None for one who need not wait.
    turn: "asyncio.Future[None] | None" = None
    #: What was decided, and what of that has come true.
    changes: tuple[Change, ...] = ()
    done: tuple[Change, ...] = ()
    #: The instance's lease at the moment when that was done.
    lease: Lease | None = None
    error: BaseException | None = None
    is_over = False

    def __init__(self, command: Command, origin: Origin) -> None:
        self.command = command
        self.origin = origin

    def end(self, error: BaseException | None = None) -> None:
        """It is over."""
        self.error = error
        self.is_over = True
        self.wake()

    def wake(self) -> None:
        """Whoever has asked goes on."""
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(None)


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
        #: Until when (lease clock) what is not listed may merely not have registered again yet.
        self._recovers_at = -math.inf
        #: Whether that is so, as it was at the last beat: readers are to wait then, instead of being told a lie.
        self.is_recovering = False
        #: Turns of the loop until the next part.
        self._turns = 0
        #: Those who wait to be decided on, in the order in which they have asked.
        self._asked: deque[_Asked] = deque()
        #: The instances that they, and those who are being served, want to change: how many want to change each.
        self._changing: Counter[str | None] = Counter()

    # Changes. `origin` is who asks, for the history.

    async def register(self, command: Register, origin: Origin = NOBODY) -> Lease:
        """Lists an instance and gives back its lease. Without an instance_id it is a new one, under a new UUID;
        with one that is known the entry is taken over. Raises LimitReached, StoreUnavailable, as all changes do."""
        if command.instance_id is None:
            command = msgspec.structs.replace(command, instance_id=new_id())
        return _lease(await self._change(command, origin))

    @property
    def changes_at_once(self) -> bool:
        """Whether a change would have to wait for nobody right now: neither for another change nor for the store."""
        return self._store.is_immediate and not self._asked and not self._lock.locked()

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
        lease = self.renew(command.instance_id, command.generation, origin.caller)
        # What changes nothing waits for nobody: a mere heartbeat may well say each time that its instance is up.
        if command.instance_id not in self._changing and not self._decide(command, origin):
            return lease
        return _lease(await self._change(command, origin))

    async def deregister(self, command: Deregister, origin: Origin = NOBODY) -> Change:
        """Takes an instance off the list; gives back the change, with the instance as it was.
        Raises UnknownInstance, StaleGeneration."""
        return (await self._change(command, origin)).done[-1]

    async def override(self, command: SetOverride | Resume, origin: Origin = NOBODY) -> Lease:
        """Lays an override over an instance, or takes it off; gives back the lease. Raises UnknownInstance."""
        return _lease(await self._change(command, origin))

    def renew(self, instance_id: str, generation: int | None = None, caller: Caller = EVERYONE) -> Lease:
        """A heartbeat: the lease runs for another ttl. Gives it back. Raises UnknownInstance, StaleGeneration,
        Forbidden."""
        now = self._settle()
        if self.is_behind:
            self._settle_instance(instance_id, now)
        lease = self._state.lease_to_change(instance_id, generation, caller)
        if lease.suspicion is None:
            self._state.renew(lease, now, self._clock.wall())
        else:
            self._hear([lease])
        self._renewed += 1
        return lease

    def renew_all(self, instance_ids: Iterable[str], caller: Caller = EVERYONE) -> Renewals:
        """A heartbeat for each."""
        now, wall = self._settle(), self._clock.wall()
        renewed, unknown, forbidden, is_free = 0, [], 0, caller is EVERYONE
        suspects: list[Lease] = []
        for instance_id in instance_ids:
            lease = self._state.find(instance_id)
            if lease is None or (lease.expires_at <= now and self._state.has_ended(lease, now)):
                unknown.append(instance_id)
                continue
            if not (is_free or caller.may_change(lease.instance)):
                unknown.append(instance_id)
                forbidden += 1
                continue
            if lease.suspicion is None:
                self._state.renew(lease, now, wall)
            else:
                suspects.append(lease)
            renewed += 1
        if suspects:
            self._hear(suspects)
        self._renewed += renewed
        return Renewals(renewed, unknown, forbidden)

    def may_renew(self, instance_id: str, caller: Caller) -> bool:
        """Whether there is such an instance, and the caller may send heartbeats for it."""
        lease = self._state.find(instance_id)
        if lease is None or self._state.has_ended(lease, self._clock.now()):
            return False
        return caller is EVERYONE or caller.may_change(lease.instance)

    def sweep(self) -> None:
        """Expires what has ended. Every other call does too: this one is for when nobody calls."""
        self._settle()

    def beat(self) -> None:
        """Shows the lease clock that we are awake; and where someone watches, he hears now of what has ended."""
        now = self._settle() if self.feed.watchers else self._clock.now()
        self.is_recovering = now < self._recovers_at

    def recover(self, seconds: float) -> None:
        """The former state is lost: for so many seconds the services may be about to register again."""
        self._recovers_at = self._clock.now() + seconds
        self.is_recovering = True

    # Questions.

    # What they give to a reader is noted as handed out, unless he only asks whether there is anything.

    def lease(self, instance_id: str, *, hand_out: bool = True) -> Lease:
        """The lease of one instance, for a reader. Raises UnknownInstance."""
        self._settle_instance(instance_id, self._settle())
        lease = self._state.lease(instance_id)
        if hand_out:
            self._hand_out((lease,))
        return lease

    def leases_left(self, instance_ids: Iterable[str]) -> list[tuple[Lease, float]]:
        """The leases of these instances, as far as they are there, and the seconds that are left of each: for someone
        who looks after the registry, who is handed out nothing."""
        now = self._settle()
        found = []
        for instance_id in dict.fromkeys(instance_ids):
            self._settle_instance(instance_id, now)
            lease = self._state.find(instance_id)
            if lease is not None:
                found.append((lease, lease.expires_at - now))
        return found

    def listing(self, service_name: str, *, hand_out: bool = True) -> Service | None:
        """A service, for a reader who takes all of its instances that are up; None where it has no instance."""
        now = self._settle()
        # The hottest call of all: where nothing is behind, it is spared another.
        service = self._settle_service(service_name, now) if self.is_behind else self._state.service(service_name)
        if service is None:
            return None
        if self.is_behind and (living := self._state.living(service, now)) is not service:
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

    def snapshot(
        self, service_names: Iterable[str], choice: Choice | None = None, *, hand_out: bool = True
    ) -> list[Lease]:
        """The leases of all instances of these services (none: of all), whatever their status: of those that fit a
        choice, where there is one."""
        now = self._settle()
        names = list(dict.fromkeys(service_names))
        there = (lease for name in names for lease in self._state.leases(name)) if names else self._state.all_leases()
        leases = [lease for lease in there if lease.expires_at > now or not self._state.has_ended(lease, now)]
        if choice is not None:
            leases = [lease for lease in leases if choice.fits(lease)]
        if hand_out:
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
        return Tally(services, instances, self.feed.watchers, self._state.restored_count(), self._renewed, expired)

    def statuses(self) -> dict[Status, int]:
        """How many instances have each status."""
        now = self._settle()
        return self._state.statuses(self._state.ended_leases(now) if self.is_behind else ())

    @property
    def bulk(self) -> int:
        """Bytes of metadata, tags and long URLs of all instances."""
        return self._state.bulk

    @property
    def suspect_share(self) -> float:
        """See State."""
        return self._state.suspect_share

    def suspects(self) -> int:
        """How many instances are suspects, but for those of a mass whose turn has not come."""
        return self._state.suspects()

    def suspected(self) -> list[Suspected]:
        """The services that have suspects, those with the most first; not more than so many of them."""
        now = self._settle()
        services = heapq.nsmallest(MOST_SUSPECTED, self._state.suspected(), key=lambda one: (-one.suspects, one.name))
        return [Suspected(one.name, len(one.leases), one.suspects, self._state.silence(one, now)) for one in services]

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

    async def _change(self, command: Command, origin: Origin) -> _Asked:
        """The one shape of a change. Gives back what has taken effect; where it raises, nothing has."""
        asked = _Asked(command, origin)
        self._asked.append(asked)
        self._changing[command.instance_id] += 1
        try:
            if self._lock.locked():
                asked.turn = asyncio.get_running_loop().create_future()
                await asked.turn
            while not asked.is_over:
                async with self._lock:
                    if not asked.is_over:
                        await self._serve(asked)
        finally:
            self._changing[command.instance_id] -= 1
            if not self._changing[command.instance_id]:
                del self._changing[command.instance_id]
            if not asked.is_over and asked in self._asked:  # whoever has asked does not want it any more
                self._asked.remove(asked)
            if self._asked and not self._lock.locked():
                self._asked[0].wake()
        if asked.error is not None:
            try:
                raise asked.error
            finally:
                asked.error = None  # whose traceback knows us: together we would wait for the garbage collector
        return asked

    async def _serve(self, leader: _Asked) -> None:
        """Decides on those who have asked, stores what is to change, and makes it true."""
        together = self._decide_all()
        if not together:
            return
        try:
            numbered = await self._store.append([change for asked in together for change in asked.changes])
            self._make_true(together, numbered)
        except asyncio.CancelledError:  # the others have nothing to do with that; to store a change twice does no harm
            self._asked.extendleft(asked for asked in reversed(together) if asked is not leader)
            raise
        except Exception as error:
            for asked in together:
                if not asked.is_over:
                    asked.end(error)

    def _make_true(self, together: list[_Asked], numbered: Sequence[Change]) -> None:
        now, wall = self._clock.now(), self._clock.wall()
        done: list[Change] = []
        first = 0
        for asked in together:
            after = first + len(asked.changes)
            asked.done = self._state.commit(numbered[first:after], now, wall)
            first = after
            done += asked.done
            self._end(asked)
        self._next_end = self._state.next_end(now)
        self.feed.publish(done)

    def _decide_all(self) -> list[_Asked]:
        """Decides on those who have asked, in their order, and gives back those for whom there is something to change.
        Who asks for an instance that is about to change, or perhaps for the last room there is, is decided on later."""
        together: list[_Asked] = []
        later: list[_Asked] = []
        changing: set[str | None] = set()
        while self._asked and len(together) < MOST_TOGETHER:
            asked = self._asked.popleft()
            command = asked.command
            is_known = command.instance_id in changing
            changing.add(command.instance_id)
            if together and (
                is_known or (isinstance(command, Register) and self._state.room(command.service_name) <= len(together))
            ):
                later.append(asked)
                continue
            try:
                asked.changes = self._decide(command, asked.origin)
            except Exception as error:
                asked.end(error)
                continue
            if asked.changes:
                together.append(asked)
            else:
                self._end(asked)
        self._asked.extendleft(reversed(later))
        return together

    def _end(self, asked: _Asked) -> None:
        """It is done, unless the instance's lease has ended while the store was at work."""
        assert asked.command.instance_id is not None
        asked.lease = self._state.find(asked.command.instance_id)
        is_lost = bool(asked.changes) and not asked.done
        asked.end(UnknownInstance(asked.command.instance_id) if is_lost else None)

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
        if lease is not None and self._state.has_ended(lease, now):
            self._expire(self._state.expiries([lease], self._clock.wall()))

    def _settle_service(self, service_name: str, now: float) -> Service | None:
        """Gives back a service, if there is one. Where we are behind, a part of what has ended in it is expired first,
        so that its index tells that its list has changed; what else has ended must be left out."""
        service = self._state.service(service_name)
        if service is None or not self.is_behind:
            return service
        ended = (
            lease for lease in service.leases.values() if lease.expires_at <= now and self._state.has_ended(lease, now)
        )
        some = list(itertools.islice(ended, SLICE))
        if some:
            self._expire(self._state.expiries(some, self._clock.wall()))
        return self._state.service(service_name)

    def _leases_of(self, service_name: str) -> Collection[Lease]:
        """The leases of a service that have not ended."""
        now = self._settle()
        service = self._settle_service(service_name, now)
        if service is not None and self.is_behind:
            service = self._state.living(service, now)
        return service.leases.values() if service else ()

    def _hear(self, suspects: Iterable[Lease]) -> None:
        """Heartbeats of suspects: unlike others, everyone is told of them."""
        self._expire(self._state.heard(suspects, self._clock.wall()))

    def _expire(self, ended: Sequence[Change]) -> None:
        """Makes changes true that time has brought, or a heartbeat of a suspect."""
        now = self._clock.now()
        if self._changing:
            ended = [self._beside_others(change) for change in ended]
        done = self._state.commit(self._store.record(ended), now, self._clock.wall())
        self._next_end = self._state.next_end(now)
        self._expired += sum(change.kind == "expired" for change in done)
        self.feed.publish(done)

    def _beside_others(self, change: Change) -> Change:
        """A change by time of an instance that is about to change otherwise, too. What is being written of that says
        until when the override runs; the end of it, written behind, would say how the instance was before."""
        if change.kind == "updated" and change.instance.instance_id in self._changing:
            return msgspec.structs.replace(change, is_passing=True)
        return change


def _lease(asked: _Asked) -> Lease:
    assert asked.lease is not None, "what was changed is there"
    return asked.lease
