"""The state of the registry, and the one door through which it changes: `decide`, then `commit`.

`decide` says what a command would change and may refuse; it changes nothing. Between the two the changes go to the
store, which takes time, and meanwhile leases may be renewed and may end. So `commit` looks once more: what has
vanished in between can no longer be updated or deregistered. It leaves such changes out and never fails.
"""

import heapq
import math
from collections import Counter
from collections.abc import Collection, Iterable

import msgspec

from registryd.core.access import EVERYONE, Caller
from registryd.core.errors import LimitReached, StaleGeneration, UnknownInstance
from registryd.core.leases import Lease, Leases
from registryd.core.limits import Limits, flag_of
from registryd.core.model import (
    NOBODY,
    Change,
    ChangeKind,
    Command,
    Deregister,
    Instance,
    Kept,
    KeptGone,
    Origin,
    Override,
    Register,
    Report,
    Resume,
    SetOverride,
    Status,
    Suspicion,
    Update,
    bulk,
    effective_status,
)
from registryd.core.past import Gone, Past
from registryd.core.services import Service, ServiceCount, Services
from registryd.core.suspects import Silence, Verdict

#: One for all who have none: nothing of an instance ever changes in place, and an empty dict takes 64 bytes.
_NO_METADATA: dict[str, str] = {}


class State:
    """All instances, by service and by id. `now` is the lease clock in seconds, `wall` whole seconds since 1970."""

    def __init__(self, *, default_ttl: float, limits: Limits, suspect_share: float = 0.0) -> None:
        #: What holds for registrations from now on.
        self.default_ttl = default_ttl
        self.limits = limits
        self._suspect_share = suspect_share
        #: Each lease by instance id; the truth about who is alive.
        self._leases = Leases()
        #: The same leases by service.
        self._services = Services()
        #: Heap of (lease clock, instance id) at which an override ends, as far as it is still there.
        self._override_ends: list[tuple[float, str]] = []
        self._past = Past()

    @property
    def suspect_share(self) -> float:
        """The share of a service's leases that must have gone silent for those that end to be suspects; 0: none is."""
        return self._suspect_share

    @suspect_share.setter
    def suspect_share(self, share: float) -> None:
        if share != self._suspect_share:
            self._suspect_share = share
            for service in self._services:
                if service.silence is not None:
                    service.silence.forget_verdicts()

    # Questions. They answer from what is there: call `ended` and commit it first. Where that is too much for one step,
    # whoever asks leaves out the leases that `has_ended` tells of. Those that are about to be suspects stay in.

    def __len__(self) -> int:
        return len(self._leases)

    def find(self, instance_id: str) -> Lease | None:
        """The lease of one instance, or None."""
        return self._leases.get(instance_id)

    def lease(self, instance_id: str, generation: int | None = None) -> Lease:
        """The lease of one instance. Raises UnknownInstance, or StaleGeneration where `generation` is not its own."""
        lease = self._leases.get(instance_id)
        if lease is None:
            raise UnknownInstance(instance_id)
        if generation is not None and generation != lease.instance.generation:
            raise StaleGeneration(instance_id, generation, lease.instance.generation)
        return lease

    def lease_to_change(self, instance_id: str, generation: int | None, caller: Caller) -> Lease:
        """The same for someone who is about to change it. Raises Forbidden, too."""
        if caller is not EVERYONE:
            caller.must_change(self.lease(instance_id).instance)
        return self.lease(instance_id, generation)

    def lease_to_operate(self, instance_id: str, caller: Caller) -> Lease:
        """The same for someone who is about to lay an override over it, or to take it off."""
        lease = self.lease(instance_id)
        caller.must_operate(lease.instance)
        return lease

    def service(self, service_name: str) -> Service | None:
        """A service with its leases, or None where it has no instance."""
        return self._services.get(service_name)

    def leases(self, service_name: str) -> Collection[Lease]:
        """The leases of a service's instances, in order of registration; none for an unknown service."""
        service = self._services.get(service_name)
        return () if service is None else service.leases.values()

    def all_leases(self) -> Iterable[Lease]:
        """The leases of all instances."""
        return iter(self._leases)

    def has_ended(self, lease: Lease, now: float) -> bool:
        """Whether nobody is to be told any more of a lease, though it is still here. Its `expires_at` alone tells that
        where it is still to come; where it is not, the lease may be about to be a suspect."""
        return lease.expires_at <= now and self._doubt(lease, now) is None

    def living(self, service: Service, now: float) -> Service | None:
        """A service without the leases that have ended: itself, where there is none; None, where none is left."""
        return service.living(now, self.has_ended)

    def suspects(self) -> int:
        """How many leases are suspects."""
        return self._leases.suspects

    def suspected(self) -> list[Service]:
        """Every service that has suspects."""
        return [service for service in self._services if service.suspects] if self._leases.suspects else []

    def silence(self, service: Service, now: float) -> Verdict:
        """How many leases of a service are silent now."""
        return _silence_of(service).count(service.leases.values(), self._suspect_share, now)

    def services(self, ended: Iterable[Lease] = ()) -> dict[str, ServiceCount]:
        """Every service that has an instance, by name, as if these leases were not there any more."""
        return self._services.counts(ended)

    def ended_leases(self, now: float) -> list[Lease]:
        """The leases that have ended and are still here."""
        ended = self._leases.ended(now)
        return [lease for lease in ended if self._doubt(lease, now) is None] if self._suspect_share else ended

    def statuses(self, ended: Iterable[Lease] = ()) -> dict[Status, int]:
        """How many instances have each status, as if these leases were not there any more."""
        gone = Counter(lease.status for lease in ended)
        return {status: count - gone[status] for status, count in self._services.statuses.items()}

    @property
    def bulk(self) -> int:
        """Bytes of metadata, tags and long URLs of all instances."""
        return self._leases.bulk

    def restored_count(self) -> int:
        """How many leases come from a former life, and have had no heartbeat since."""
        return self._leases.restored

    def service_count(self) -> int:
        """How many services have an instance."""
        return len(self._services)

    def room(self, service_name: str) -> int:
        """How many more instances a service may have."""
        limits = self.limits
        return min(limits.instances - len(self._leases), limits.instances_per_service - len(self.leases(service_name)))

    def next_end(self, now: float) -> float:
        """A moment before which no lease and no override ends; infinity where there is none. See Leases.next_end."""
        override_end = self._override_ends[0][0] if self._override_ends else math.inf
        return min(self._leases.next_end(now), override_end)

    # The former life.

    def restore(self, kept: Iterable[Kept], gone: Iterable[KeptGone], now: float, wall: int) -> None:
        """Takes over what a store has kept, into a state that is still empty. Every lease begins anew, as nobody can
        know which heartbeats would have come, and every instance counts as handed out just now, as it may have been.
        What has gone must be in the order in which it went."""
        for entry in kept:
            instance = entry.instance
            lease = self._leases.grant(instance, self._services.open(instance.service_name), now, entry.last_heartbeat)
            self._leases.restore(lease)
            lease.given_at = wall
            self._lay(lease, _resumed(entry.override, now, wall))
            self._services.list(lease, effective_status(instance, lease.override))
        for one in gone:
            override = _resumed(one.override, now, wall)
            # Where the wall clock has gone back, it went just now.
            at = now - max(0, wall - one.at)
            name = one.instance_id
            self._past.add(name, Gone(name, one.service_name, one.owner, at, one.generation, override, wall))

    # A heartbeat changes nothing that anyone has to be told of, so it needs no decision.

    def renew(self, lease: Lease, now: float, wall: int) -> None:
        """Lets a lease run for another ttl from `now`."""
        self._leases.renew(lease, now, wall)

    def heard(self, suspects: Iterable[Lease], wall: int) -> list[Change]:
        """The end of the suspicion of each of these, by a heartbeat: to commit it renews the lease."""
        return [_passing(lease, "is heard again: no longer suspect", wall, None) for lease in suspects]

    # The door.

    def decide(self, command: Command, now: float, wall: int, origin: Origin = NOBODY) -> tuple[Change, ...]:
        """What this command changes; nothing where all is as it should be. Raises a RegistrydError to refuse it."""
        match command:
            case Register():
                return self._decide_register(command, now, wall, origin)
            case Update():
                return self._decide_update(command, wall, origin)
            case Deregister():
                lease = self.lease_to_change(command.instance_id, command.generation, origin.caller)
                who = "its owner" if origin.caller.owns(lease.instance) else "an operator"
                return (_change("deregistered", lease, f"{who} asked for it", wall, origin),)
            case SetOverride():
                return self._decide_override(command, now, wall, origin)
            case Resume():
                return self._decide_resume(command, wall, origin)

    def ended(self, now: float, wall: int, most: int | None = None) -> tuple[Change, ...]:
        """What the passing of time changes: an update for each override that has ended, and for each lease an expiry,
        or an update that makes it a suspect, but of these at most so many."""
        ends = [self._end(lease, now, wall) for lease in self._leases.ended(now, most)]
        return (*self._ended_overrides(now, wall), *ends)

    def expiries(self, leases: Iterable[Lease], wall: int) -> list[Change]:
        """An expiry for each of these leases, which have ended."""
        return [_expiry(lease, wall) for lease in leases]

    def _end(self, lease: Lease, now: float, wall: int) -> Change:
        """What becomes of a lease whose end has come."""
        verdict = self._doubt(lease, now)
        if verdict is None:
            return _expiry(lease, wall)
        ttl, share = lease.instance.ttl, self._suspect_share
        reason = (
            f"suspect: {verdict.silent} of {verdict.of} leases of {lease.instance.service_name!r} have gone silent "
            f"(--suspect-share {share:g}), so it may be us who cannot be reached; listed for another {ttl:g} s unless "
            "it is heard"
        )
        until = wall + math.ceil(lease.expires_at + ttl - now)
        return _passing(lease, reason, wall, Suspicion(verdict.silent, verdict.of, share, until))

    def _doubt(self, lease: Lease, now: float) -> Verdict | None:
        """Why a lease whose end has come is to be a suspect; None where it expires."""
        if not self._suspect_share or lease.suspicion is not None or lease.expires_at + lease.instance.ttl <= now:
            return None
        service = self._services.open(lease.instance.service_name)
        silence = _silence_of(service)
        verdict = silence.verdict_on(lease.expires_at)
        if verdict is None:
            first_end = self._leases.next_end(now)
            verdict = silence.judge(service.leases.values(), self._suspect_share, now, first_end)
        return verdict if verdict.is_suspicious else None

    def commit(self, changes: Iterable[Change], now: float, wall: int) -> tuple[Change, ...]:
        """Makes changes that were decided true, all at once. Gives back those that have taken effect."""
        done = [self._apply(change, now, wall) for change in changes]
        return tuple([change for change in done if change is not None])

    def _decide_register(self, command: Register, now: float, wall: int, origin: Origin) -> tuple[Change, ...]:
        assert command.instance_id is not None, "whoever sends the command gives the instance an id"
        taken_over = self._leases.get(command.instance_id)
        former = self._past.get(command.instance_id, now) if taken_over is None else taken_over.instance
        origin.caller.must_register(command.service_name, former)
        self._check_room(command.service_name, taken_over)
        generation, override = self._last_life(command.instance_id, taken_over, now)
        if override is not None and former is not None and former.service_name not in ("", command.service_name):
            origin.caller.must("operate", former.service_name)  # or a move would shed what an operator has laid
        instance = Instance(
            instance_id=command.instance_id,
            service_name=command.service_name,
            base_url=command.base_url,
            registered_at=wall,
            status=command.status or "up",
            ttl=self.default_ttl if command.ttl is None else command.ttl,
            metadata=command.metadata or _NO_METADATA,
            tags=command.tags or (),
            version=command.version or "",
            zone=command.zone or "",
            weight=1 if command.weight is None else command.weight,
            owner=origin.caller.name,
            generation=generation + 1,
        )
        self._check_bulk(instance, taken_over)
        reason = "new" if taken_over is None else f"takes over generation {generation}"
        registered = Change(
            kind="registered", instance=instance, last_heartbeat=wall, reason=reason, at=wall,
            override=override, origin=origin,
        )  # fmt: skip
        if taken_over is None or taken_over.instance.service_name == instance.service_name:
            return (registered,)
        return (
            _change("deregistered", taken_over, "its id moved to another service", wall, origin),
            registered,
        )

    def _last_life(self, instance_id: str, taken_over: Lease | None, now: float) -> tuple[int, Override | None]:
        """The generation and the override that a registration under this id goes on from."""
        if taken_over is not None:
            return taken_over.instance.generation, taken_over.override
        gone = self._past.get(instance_id, now)
        return (0, None) if gone is None else (gone.generation, gone.override)

    def _check_room(self, service_name: str, taken_over: Lease | None) -> None:
        """Raises LimitReached where a registration would be one too many."""
        limits = self.limits
        if taken_over is None and len(self._leases) >= limits.instances:
            raise LimitReached(
                f"the registry is full: it holds {limits.instances} instances ({flag_of('instances')}); "
                "deregister some, or raise the limit",
            )
        if taken_over is not None and taken_over.instance.service_name == service_name:
            return
        if len(self.leases(service_name)) >= limits.instances_per_service:
            raise LimitReached(
                f"service {service_name!r} is full: it has {limits.instances_per_service} instances "
                f"({flag_of('instances_per_service')}); deregister some, or raise the limit",
            )

    def _check_bulk(self, instance: Instance, before: Lease | None) -> None:
        """Raises LimitReached where an instance, in place of what it was before, would take too much memory."""
        most, more = self.limits.metadata_bytes, bulk(instance)
        if before is not None:
            more -= bulk(before.instance)
        if more > 0 and self._leases.bulk + more > most:
            raise LimitReached(
                f"the registry is full: the metadata and tags of all instances take {most} bytes "
                f"({flag_of('metadata_bytes')}); send less of them, deregister some, or raise the limit"
            )

    def _decide_update(self, command: Update, wall: int, origin: Origin) -> tuple[Change, ...]:
        lease = self.lease_to_change(command.instance_id, command.generation, origin.caller)
        instance = _with_report(lease.instance, command.report)
        if instance == lease.instance:
            return ()
        self._check_bulk(instance, lease)
        reason = f"reports {instance.status} after {lease.instance.status}"
        if instance.status == lease.instance.status:
            reason = "reports weight or metadata"
        change = _change("updated", lease, reason, wall, origin)
        return (msgspec.structs.replace(change, instance=instance, is_report=True),)

    def _decide_override(self, command: SetOverride, now: float, wall: int, origin: Origin) -> tuple[Change, ...]:
        lease = self.lease_to_operate(command.instance_id, origin.caller)
        laid = lease.override
        if laid is not None and laid.status == command.status and not command.reason and command.seconds is None:
            return ()  # it is there, and nothing new is said of it
        if command.seconds is None:
            override = Override(command.status, command.reason, wall)
        else:
            until = wall + math.ceil(command.seconds)
            override = Override(command.status, command.reason, wall, until, now + command.seconds)
        reason = f"{command.status}: {command.reason}" if command.reason else command.status
        return (msgspec.structs.replace(_change("updated", lease, reason, wall, origin), override=override),)

    def _decide_resume(self, command: Resume, wall: int, origin: Origin) -> tuple[Change, ...]:
        lease = self.lease_to_operate(command.instance_id, origin.caller)
        if lease.override is None:
            return ()
        reason = f"{lease.override.status} is over: it was taken off"
        return (msgspec.structs.replace(_change("updated", lease, reason, wall, origin), override=None),)

    def _ended_overrides(self, now: float, wall: int) -> list[Change]:
        """An update for each override that has ended, while its instance is there."""
        changes: list[Change] = []
        ended: list[tuple[float, str]] = []
        while self._override_ends and self._override_ends[0][0] <= now:
            ends_at, instance_id = heapq.heappop(self._override_ends)
            lease = self._leases.get(instance_id)
            if (
                lease is None
                or lease.override is None
                or lease.override.ends_at != ends_at
                or self.has_ended(lease, now)
            ):
                continue
            change = _change("updated", lease, f"{lease.override.status} is over: its time is up", wall)
            changes.append(msgspec.structs.replace(change, override=None))
            ended.append((ends_at, instance_id))
        for end in ended:  # nothing has changed yet
            heapq.heappush(self._override_ends, end)
        return changes

    def _watch_end(self, ends_at: float, instance_id: str) -> None:
        heapq.heappush(self._override_ends, (ends_at, instance_id))
        if len(self._override_ends) > 2 * len(self._leases) + 1000:  # most belong to overrides long replaced
            self._override_ends = [
                (lease.override.ends_at, lease.instance.instance_id)
                for lease in self._leases
                if lease.override is not None and lease.override.ends_at is not None
            ]
            heapq.heapify(self._override_ends)

    def _apply(self, change: Change, now: float, wall: int) -> Change | None:
        """Makes one change true; gives back what has taken effect of it, if anything."""
        instance = change.instance
        lease = self._leases.get(instance.instance_id)
        if _has_ended(change.override, now) and change.kind in ("registered", "updated"):
            change = msgspec.structs.replace(change, override=None)
        if change.kind == "registered":
            self._start(change, lease, now, wall)
            return change
        if lease is None or lease.instance.generation != instance.generation:
            return None
        if change.is_passing and change.override is lease.override:
            return self._apply_passing(change, lease, now, wall)
        if change.suspicion is not lease.suspicion:  # since the decision
            change = msgspec.structs.replace(change, suspicion=lease.suspicion)
        if change.kind == "expired":
            self._note_expired(lease)
            self._remove(lease, now)
            return change
        if change.kind == "deregistered":
            # Even where its lease has ended since the decision: nobody has been told of that yet, and now nobody is.
            self._remove(lease, now)
            return change
        if self.has_ended(lease, now):
            return None
        self._update(lease, change)
        return change

    def _apply_passing(self, change: Change, lease: Lease, now: float, wall: int) -> Change | None:
        """Makes a lease a suspect, or ends that by a heartbeat."""
        if (change.suspicion is None) == (lease.suspicion is None):
            return None
        service = self._services.open(lease.instance.service_name)
        if change.suspicion is None:
            service.suspects -= 1
            self._leases.hear(lease, now, wall)
        else:
            service.suspects += 1
            self._leases.suspect(lease, change.suspicion)
        return msgspec.structs.replace(change, last_heartbeat=lease.last_heartbeat)

    def _note_expired(self, lease: Lease) -> None:
        if self._suspect_share:
            _silence_of(self._services.open(lease.instance.service_name)).note_expired(lease)

    def _start(self, change: Change, taken_over: Lease | None, now: float, wall: int) -> None:
        instance = change.instance
        given_at = self._last_given_at(instance.instance_id, taken_over, now)
        if taken_over is not None and taken_over.instance.service_name != instance.service_name:
            self._services.unlist(taken_over)
        service = self._services.open(instance.service_name)
        if service.silence is not None:
            service.silence.note_back(instance.instance_id)
        lease = self._leases.grant(instance, service, now, wall)
        lease.given_at = given_at
        self._lay(lease, change.override)
        self._services.list(lease, change.status)
        self._past.forget(instance.instance_id)

    def _last_given_at(self, instance_id: str, taken_over: Lease | None, now: float) -> int:
        """When a reader was last given this instance, in whichever life."""
        if taken_over is not None:
            return taken_over.handed_out_at
        gone = self._past.get(instance_id, now)
        return 0 if gone is None else gone.given_at

    def _update(self, lease: Lease, change: Change) -> None:
        self._leases.change(lease, change.instance)
        self._lay(lease, change.override)
        self._services.set_status(lease, change.status)

    def _lay(self, lease: Lease, override: Override | None) -> None:
        if override is not lease.override:
            lease.override = override
            if override is not None and override.ends_at is not None:
                self._watch_end(override.ends_at, lease.instance.instance_id)

    def _remove(self, lease: Lease, now: float) -> None:
        self._leases.drop(lease.instance.instance_id)
        self._services.unlist(lease)
        instance = lease.instance
        gone = Gone(
            instance.instance_id, instance.service_name, instance.owner,
            now, instance.generation, lease.override, lease.handed_out_at,
        )  # fmt: skip
        self._past.add(lease.instance.instance_id, gone)

    def check(self) -> None:
        """Raises AssertionError unless all that the comments say about the fields holds."""
        self._leases.check()
        self._services.check()
        listed = {instance_id: lease for service in self._services for instance_id, lease in service.leases.items()}
        assert listed.keys() == {lease.instance.instance_id for lease in self._leases}, "listed if and only if leased"
        assert all(self._leases.get(instance_id) is lease for instance_id, lease in listed.items()), "the same lease"
        ends = set(self._override_ends)
        for lease in listed.values():
            assert lease.status == effective_status(lease.instance, lease.override), "the override wins"
            if lease.override is not None and lease.override.ends_at is not None:
                assert (lease.override.ends_at, lease.instance.instance_id) in ends, "the end of an override is watched"


def _change(kind: ChangeKind, lease: Lease, reason: str, wall: int, origin: Origin = NOBODY) -> Change:
    """A change of what a lease is about, which otherwise is as it was."""
    return Change(
        kind=kind, instance=lease.instance, last_heartbeat=lease.last_heartbeat, reason=reason, at=wall,
        override=lease.override, origin=origin, suspicion=lease.suspicion,
    )  # fmt: skip


def _passing(lease: Lease, reason: str, wall: int, suspicion: Suspicion | None) -> Change:
    """A change of the suspicion alone."""
    change = _change("updated", lease, reason, wall)
    return msgspec.structs.replace(change, suspicion=suspicion, is_passing=True)


def _silence_of(service: Service) -> Silence:
    if service.silence is None:
        service.silence = Silence()
    return service.silence


def _expiry(lease: Lease, wall: int) -> Change:
    reason = f"no heartbeat for {lease.instance.ttl:g} s"
    if lease.suspicion is not None:
        reason += f", and for {lease.instance.ttl:g} s more as a suspect"
    return _change("expired", lease, reason, wall)


def _has_ended(override: Override | None, now: float) -> bool:
    return override is not None and override.ends_at is not None and override.ends_at <= now


def _resumed(override: Override | None, now: float, wall: int) -> Override | None:
    """An override of a former life: its end, if it has one, on the lease clock of this one."""
    if override is None or override.until is None:
        return override
    return msgspec.structs.replace(override, ends_at=now + max(0, override.until - wall))


def _with_report(instance: Instance, report: Report) -> Instance:
    return msgspec.structs.replace(
        instance,
        status=report.status or instance.status,
        weight=instance.weight if report.weight is None else report.weight,
        metadata=instance.metadata if report.metadata is None else report.metadata,
    )
