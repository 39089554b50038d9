"""The state of the registry, and the one door through which it changes: `decide`, then `commit`.

`decide` says what a command would change and may refuse; it changes nothing. Between the two the changes go to the
store, which takes time, and meanwhile leases may be renewed and may end. So `commit` looks once more: what has
vanished in between can no longer be updated or deregistered. It leaves such changes out and never fails.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import Struct

from registryd.core.errors import LimitReached, StaleGeneration, UnknownInstance
from registryd.core.leases import Lease, Leases
from registryd.core.limits import Limits, flag_of
from registryd.core.model import Change, Command, Deregister, Instance, Register, Report, Update


class ServiceCount(Struct, frozen=True):
    """How many instances a service has, and how many of them say that they are up."""

    count: int
    up: int


class State:
    """All instances, by service and by id. `now` is the lease clock in seconds, `wall` whole seconds since 1970."""

    def __init__(self, *, default_ttl: float, limits: Limits) -> None:
        self._default_ttl = default_ttl
        self._limits = limits
        #: Each lease by instance id; the truth about who is alive.
        self._leases = Leases()
        #: The same leases as {service: {instance_id: lease}}, in order of registration; no entry is empty.
        self._services: dict[str, dict[str, Lease]] = {}
        #: How many instances of each service are up; the same keys as _services.
        self._up: dict[str, int] = {}

    # Questions. They answer from what is there: call `ended` and commit it first.

    def __len__(self) -> int:
        return len(self._leases)

    def lease(self, instance_id: str, generation: int | None = None) -> Lease:
        """The lease of one instance. Raises UnknownInstance, or StaleGeneration where `generation` is not its own."""
        lease = self._leases.get(instance_id)
        if lease is None:
            raise UnknownInstance(instance_id)
        if generation is not None and generation != lease.instance.generation:
            raise StaleGeneration(instance_id, generation, lease.instance.generation)
        return lease

    def up(self, service_name: str) -> list[Lease]:
        """The leases of a service's instances that are up, in order of registration; none for an unknown service."""
        leases = self._services.get(service_name)
        if leases is None:
            return []
        return [lease for lease in leases.values() if lease.instance.status == "up"]

    def services(self) -> dict[str, ServiceCount]:
        """Every service that has an instance, by name."""
        return {name: ServiceCount(len(self._services[name]), self._up[name]) for name in sorted(self._services)}

    def service_count(self) -> int:
        """How many services have an instance."""
        return len(self._services)

    def next_end(self) -> float:
        """A moment before which no lease ends; infinity where there is none."""
        return self._leases.next_end()

    # A heartbeat changes nothing that anyone has to be told of, so it needs no decision.

    def renew(self, lease: Lease, now: float, wall: int) -> None:
        """Lets a lease run for another ttl from `now`."""
        self._leases.renew(lease, now, wall)

    # The door.

    def decide(self, command: Command, wall: int) -> tuple[Change, ...]:
        """What this command changes; nothing where all is as it should be. Raises a RegistrydError to refuse it."""
        match command:
            case Register():
                return self._decide_register(command, wall)
            case Update():
                return self._decide_update(command)
            case Deregister():
                lease = self.lease(command.instance_id, command.generation)
                return (_gone("deregistered", lease, "its owner asked for it"),)

    def ended(self, now: float) -> tuple[Change, ...]:
        """What the passing of time changes: an expiry for each lease that has ended."""
        return tuple(
            _gone("expired", lease, f"no heartbeat for {lease.instance.ttl:g} s") for lease in self._leases.ended(now)
        )

    def commit(self, changes: Iterable[Change], now: float, wall: int) -> tuple[Change, ...]:
        """Makes changes that were decided true, all at once. Gives back those that have taken effect."""
        return tuple(change for change in changes if self._apply(change, now, wall))

    def _decide_register(self, command: Register, wall: int) -> tuple[Change, ...]:
        assert command.instance_id is not None, "whoever sends the command gives the instance an id"
        taken_over = self._leases.get(command.instance_id)
        self._check_room(command.service_name, taken_over)
        instance = Instance(
            instance_id=command.instance_id,
            service_name=command.service_name,
            base_url=command.base_url,
            registered_at=wall,
            status=command.status or "up",
            ttl=self._default_ttl if command.ttl is None else command.ttl,
            metadata=command.metadata or {},
            tags=command.tags or (),
            version=command.version or "",
            zone=command.zone or "",
            weight=1 if command.weight is None else command.weight,
            generation=1 if taken_over is None else taken_over.instance.generation + 1,
        )
        if taken_over is None:
            return (_registered(instance, wall, "new"),)
        registered = _registered(instance, wall, f"takes over generation {instance.generation - 1}")
        if taken_over.instance.service_name == instance.service_name:
            return (registered,)
        return (_gone("deregistered", taken_over, f"its id moved to {instance.service_name}"), registered)

    def _check_room(self, service_name: str, taken_over: Lease | None) -> None:
        """Raises LimitReached where a registration would be one too many."""
        limits = self._limits
        if taken_over is None and len(self._leases) >= limits.instances:
            raise LimitReached(
                "instances",
                f"the registry is full: it holds {limits.instances} instances ({flag_of('instances')}); "
                "deregister some, or raise the limit",
            )
        if taken_over is not None and taken_over.instance.service_name == service_name:
            return
        if len(self._services.get(service_name, ())) >= limits.instances_per_service:
            raise LimitReached(
                "instances_per_service",
                f"service {service_name!r} is full: it has {limits.instances_per_service} instances "
                f"({flag_of('instances_per_service')}); deregister some, or raise the limit",
            )

    def _decide_update(self, command: Update) -> tuple[Change, ...]:
        lease = self.lease(command.instance_id, command.generation)
        instance = _with_report(lease.instance, command.report)
        if instance == lease.instance:
            return ()
        reason = f"status {lease.instance.status} -> {instance.status}"
        if instance.status == lease.instance.status:
            reason = "weight or metadata"
        return (Change(kind="updated", instance=instance, last_heartbeat=lease.last_heartbeat, reason=reason),)

    def _apply(self, change: Change, now: float, wall: int) -> bool:
        instance = change.instance
        lease = self._leases.get(instance.instance_id)
        if change.kind == "registered":
            if lease is not None and lease.instance.service_name != instance.service_name:
                self._unlist(lease.instance)
            self._list(self._leases.grant(instance, now, wall))
            return True
        if lease is None or lease.instance.generation != instance.generation:
            return False
        if change.kind == "expired":
            self._remove(lease)
            return True
        if lease.expires_at <= now:
            return False
        if change.kind == "deregistered":
            self._remove(lease)
            return True
        self._up[instance.service_name] += (instance.status == "up") - (lease.instance.status == "up")
        lease.instance = instance
        return True

    def _remove(self, lease: Lease) -> None:
        self._leases.drop(lease.instance.instance_id)
        self._unlist(lease.instance)

    def _list(self, lease: Lease) -> None:
        """Puts a lease into its service, in place of one under the same id."""
        instance = lease.instance
        leases = self._services.setdefault(instance.service_name, {})
        old = leases.get(instance.instance_id)
        leases[instance.instance_id] = lease
        was_up = old is not None and old.instance.status == "up"
        self._up[instance.service_name] = self._up.get(instance.service_name, 0) + (instance.status == "up") - was_up

    def _unlist(self, instance: Instance) -> None:
        leases = self._services[instance.service_name]
        del leases[instance.instance_id]
        self._up[instance.service_name] -= instance.status == "up"
        if not leases:
            del self._services[instance.service_name]
            del self._up[instance.service_name]

    def check(self) -> None:
        """Raises AssertionError unless all that the comments say about the fields holds."""
        self._leases.check()
        listed: dict[str, Lease] = {}
        for name, leases in self._services.items():
            assert leases, "a service without instances is gone"
            assert all(lease.instance.service_name == name for lease in leases.values()), "listed under its service"
            assert self._up[name] == sum(lease.instance.status == "up" for lease in leases.values()), "up is counted"
            listed |= leases
        assert listed.keys() == {lease.instance.instance_id for lease in self._leases}, "listed if and only if leased"
        assert all(self._leases.get(instance_id) is lease for instance_id, lease in listed.items()), "the same lease"
        assert self._up.keys() == self._services.keys(), "every service is counted"


def _registered(instance: Instance, wall: int, reason: str) -> Change:
    return Change(kind="registered", instance=instance, last_heartbeat=wall, reason=reason)


def _gone(kind: Literal["deregistered", "expired"], lease: Lease, reason: str) -> Change:
    return Change(kind=kind, instance=lease.instance, last_heartbeat=lease.last_heartbeat, reason=reason)


def _with_report(instance: Instance, report: Report) -> Instance:
    return msgspec.structs.replace(
        instance,
        status=report.status or instance.status,
        weight=instance.weight if report.weight is None else report.weight,
        metadata=instance.metadata if report.metadata is None else report.metadata,
    )
