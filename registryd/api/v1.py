"""The calls of registryd's own interface."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, field

from registryd.api import render
from registryd.api.base import Handler, call, note_refusal
from registryd.api.context import Context
from registryd.api.durations import parse_wait
from registryd.api.filters import choice_of
from registryd.api.problems import NotReady, TooFew
from registryd.api.shapes import (
    AccessShape,
    CallerShape,
    ExplanationShape,
    InstanceShape,
    LeasesLeftShape,
    LeasesShape,
    OverloadShape,
    RenewedAllShape,
    RenewedShape,
    ServiceShape,
    ServicesShape,
    StatusShape,
    StoreShape,
    SuspectedShape,
    SuspectsShape,
    WithdrawnShape,
)
from registryd.core.access import RIGHTS, Right
from registryd.core.choice import Choice
from registryd.core.errors import Forbidden
from registryd.core.model import Deregister, OverrideStatus, Register, Report, Resume, SetOverride, Update

#: Seconds that a reader waits who says since when and not how long.
USUAL_WAIT = 30.0
#: What a reader gets who does not choose.
USUAL = Choice()
#: Rights of which one is needed to change an instance, and to read of one: of one's own, whoever may register may.
TO_CHANGE: tuple[Right, ...] = ("register", "operate")
TO_SEE_ONE: tuple[Right, ...] = ("read", "register")


class OfGeneration(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a call that may be meant for one life of an instance only."""

    generation: int | None = None


class Changed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a reader who may wait until a list has changed since `index`, for as long as `wait` says."""

    index: int | None = None
    wait: str | None = None

    def seconds(self) -> float:
        """How long to wait at most. Raises InvalidInput."""
        if self.wait is not None:
            return parse_wait(self.wait)
        return 0.0 if self.index is None else USUAL_WAIT


class Wanted(Changed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a reader who chooses among instances, and may wait until there are `min` that fit."""

    statuses: str | None = field(name="status", default=None)
    tag: tuple[str, ...] = ()
    version: str | None = None
    zone: str | None = None
    near: str | None = None
    meta: dict[str, str] | None = None
    limit: int | None = None
    pick: Literal[1] | None = None
    least: int | None = field(name="min", default=None)

    def choice(self) -> Choice:
        """What is wanted."""
        return choice_of(self, frozenset({"up"}), near=self.near, limit=self.limit, pick=self.pick is not None)


class InstanceIds(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a heartbeat for many."""

    instance_ids: list[str]


class OfInstances(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a call about several instances."""

    ids: tuple[str, ...] = field(name="instance_id", default=())


class Withdrawal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a call that takes an instance out of service: why, and for how many seconds (None: until resumed)."""

    reason: str | None = None
    seconds: float | None = field(name="for", default=None)


class RegisterHandler(Handler):
    """`POST /register`"""

    @call(body=Register, answer=InstanceShape, refusals=(429, 503), needs=("register",))
    async def post(self, *, body: Register) -> object:
        """Lists an instance."""
        return render.instance(await self.registry.register(body, self.origin))


class HeartbeatHandler(Handler):
    """`POST /heartbeat/{instance_id}`"""

    @call(query=OfGeneration, body=Report, answer=RenewedShape, refusals=(404, 409, 503), needs=TO_CHANGE)
    async def post(self, instance_id: str, *, query: OfGeneration, body: Report) -> object:
        """Renews a lease, and takes what the instance reports of itself."""
        if body.is_empty():
            return render.renewed(self.registry.renew(instance_id, query.generation, self.caller))
        return render.renewed(await self.registry.update(Update(instance_id, body, query.generation), self.origin))


class HeartbeatsHandler(Handler):
    """`POST /heartbeats`"""

    @call(body=InstanceIds, answer=RenewedAllShape, needs=TO_CHANGE)
    def post(self, *, body: InstanceIds) -> object:
        """Renews many leases at once."""
        renewals = self.registry.renew_all(body.instance_ids, self.caller)
        self.overload.rates.note_renewals(self.origin.address, renewals.renewed)
        if renewals.forbidden:  # the answer does not tell, but whoever looks after the registry is to know
            error = Forbidden(self.caller.name, "operate", f"{renewals.forbidden} of the instances that it names")
            note_refusal(self.access, error, self.origin.address, "POST /heartbeats")
        return RenewedAllShape(renewals.renewed, renewals.unknown)


class DeregisterHandler(Handler):
    """`DELETE /deregister/{instance_id}`"""

    @call(query=OfGeneration, answer=InstanceShape, refusals=(404, 409, 503), needs=TO_CHANGE)
    async def delete(self, instance_id: str, *, query: OfGeneration) -> object:
        """Takes an instance off the list."""
        command = Deregister(instance_id, query.generation)
        return render.instance(await self.registry.deregister(command, self.origin))


class WithdrawHandler(Handler):
    """`POST /drain/{instance_id}` and `POST /maintenance/{instance_id}`"""

    def initialize(self, context: Context, status: OverrideStatus) -> None:  # type: ignore[override]
        super().initialize(context)
        self._status = status

    @call(body=Withdrawal, answer=WithdrawnShape, refusals=(404, 503), needs=("operate",))
    async def post(self, instance_id: str, *, body: Withdrawal) -> object:
        """Takes an instance out of service, whatever it reports of itself."""
        command = SetOverride(instance_id, self._status, body.reason or "", body.seconds)
        return render.withdrawn(await self.registry.override(command, self.origin))


class ResumeHandler(Handler):
    """`POST /resume/{instance_id}`"""

    @call(answer=InstanceShape, refusals=(404, 503), needs=("operate",))
    async def post(self, instance_id: str) -> object:
        """Puts an instance back into service, as far as it says that it is up."""
        return render.instance(await self.registry.override(Resume(instance_id), self.origin))


class InstanceHandler(Handler):
    """`GET /instances/{instance_id}`"""

    @call(answer=InstanceShape, refusals=(404, 503), needs=TO_SEE_ONE)
    def get(self, instance_id: str) -> object:
        """Shows one instance, whatever its status."""
        self.must_know()
        self.take_index(self.registry.index())
        self.caller.must_see(self.registry.lease(instance_id, hand_out=False).instance)
        return render.instance(self.registry.lease(instance_id, hand_out=self.gives))

    head = get


class LeasesHandler(Handler):
    """`GET /leases`"""

    @call(query=OfInstances, answer=LeasesLeftShape, refusals=(503,), needs=TO_SEE_ONE)
    def get(self, *, query: OfInstances) -> object:
        """Tells how long the leases of some instances still run; those that are not there are left out."""
        self.must_know()
        self.take_index(self.registry.index())
        left = self.registry.leases_left(query.ids)
        return render.leases_left(one for one in left if self.caller.may_see(one[0].instance))

    head = get


class ServiceHandler(Handler):
    """`GET /services/{service_name}`"""

    @call(query=Wanted, answer=ServiceShape, refusals=(408, 429, 503), needs=("read",))
    async def get(self, service_name: str, *, query: Wanted) -> object:
        """Lists the instances of a service that are wanted: those that are up, unless the query says otherwise."""
        self.reader.rules.check("service_name", service_name)
        self.caller.must("read", service_name)
        self.must_know()
        registry, choice, seconds = self.registry, query.choice(), query.seconds()
        least = query.least or 0

        def is_due() -> bool:
            return self._has_changed(query, service_name) and (not least or is_enough())

        def is_enough() -> bool:
            return registry.count(service_name, choice) >= least

        await self.wait_for(is_due, service_name, seconds)
        self.caller.must("read", service_name)
        # The index first: should a lease end right now, the list is newer than it says, never older.
        self.take_index(registry.index(service_name), etag=not choice.pick)
        there = registry.count(service_name, choice) if least else 0
        if there < least:
            raise TooFew(least, there)
        if choice == USUAL:  # what all want is rendered once for all
            return render.listing(service_name, registry.listing(service_name, hand_out=self.gives))
        return render.service(service_name, registry.choose(service_name, choice, hand_out=self.gives))

    head = get

    def _has_changed(self, query: Changed, service_name: str) -> bool:
        return query.index is None or query.index != self.registry.index(service_name)


class ServicesHandler(Handler):
    """`GET /services`"""

    @call(query=Changed, answer=ServicesShape, refusals=(429, 503), needs=("read",))
    async def get(self, *, query: Changed) -> object:
        """Lists the services."""
        self.must_know()
        await self.wait_for(lambda: query.index != self.registry.index(), None, query.seconds())
        self.take_index(self.registry.index(), etag=True)
        counts = self.registry.services()
        return render.services({name: counts[name] for name in counts if self.caller.may("read", name)})

    head = get


class ExplainHandler(Handler):
    """`GET /explain/{instance_id or service_name}`"""

    @call(answer=ExplanationShape, refusals=(503,), needs=TO_SEE_ONE)
    def get(self, subject: str) -> object:
        """Tells why an instance, or each instance of a service, is handed out or not."""
        self.must_know()
        self.take_index(self.registry.index())
        stories = [story for story in self.registry.stories(subject) if self.caller.may_see(story.instance)]
        # It may have had lives elsewhere, under the same id.
        seen = [
            story._replace(events=[e for e in story.events if self.caller.may_see(e.instance)]) for story in stories
        ]
        return render.explanation(subject, seen)

    head = get


class StatusHandler(Handler):
    """`GET /status`"""

    @call(answer=StatusShape, needs=("read",))
    def get(self) -> object:
        """Tells how the registry is."""
        daemon = self.daemon
        tally, index = self.registry.tally(), self.registry.index()
        stalls, stalled_seconds = daemon.stalls()
        reasons = daemon.reasons()
        self.take_index(index)
        return StatusShape(
            status="degraded" if reasons else "ok",
            reasons=reasons or UNSET,
            version=daemon.version,
            started_at=render.timestamp(daemon.started_wall),
            uptime_seconds=round(daemon.uptime(), 3),
            services=tally.services,
            instances=tally.instances,
            watchers=tally.watchers,
            index=index,
            heartbeat_timeout=daemon.heartbeat_timeout,
            cleanup_interval=daemon.cleanup_interval,
            store=StoreShape(daemon.store_kind, tally.restored or UNSET),
            access=self._access_shape(),
            overload=self._overload_shape(),
            leases=LeasesShape(tally.renewed, tally.expired, stalls, round(stalled_seconds, 3)),
            suspects=self._suspects_shape(),
        )

    head = get

    def _access_shape(self) -> AccessShape | UnsetType:
        access = self.access
        if access.is_open:
            return UNSET
        caller = self.caller
        shown = CallerShape(caller.name, sorted(caller.rights, key=RIGHTS.index), list(caller.services))
        return AccessShape(len(access), access.refused["unauthorized"], access.refused["forbidden"], shown)

    def _overload_shape(self) -> OverloadShape | UnsetType:
        overload = self.overload
        counts = (
            self.daemon.connections_refused(),
            overload.crowd.crowded_out,
            overload.rates.refused,
            overload.waiting.let_go,
            overload.waiting.bytes,
        )
        return OverloadShape(*counts) if any(counts) else UNSET

    def _suspects_shape(self) -> SuspectsShape | UnsetType:
        registry = self.registry
        if not registry.suspect_share and not registry.suspects():
            return UNSET
        services = {
            one.service_name: SuspectedShape(
                one.listed, one.verdict.of, one.verdict.silent, one.suspects, one.verdict.needed
            )
            for one in registry.suspected()
            if self.caller.may("read", one.service_name)
        }
        return SuspectsShape(registry.suspect_share, registry.suspects(), services)


class LivezHandler(Handler):
    """`GET /livez`"""

    @call(media_type="text/plain")
    def get(self) -> object:
        """Answers, which is all there is to prove."""
        return "ok\n"

    head = get


class ReadyzHandler(Handler):
    """`GET /readyz`"""

    @call(refusals=(503,), media_type="text/plain")
    def get(self) -> object:
        """Answers while everything that serving needs is there."""
        unready = self.daemon.unready()
        if unready:
            raise NotReady(unready)
        return "ok\n"

    head = get


def routes(context: Context) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Every path of this face, for an Application."""
    given = {"context": context}
    return [  # Tornado tries one after the other: first come those that are asked for most
        (r"/services/([^/]+)/?", ServiceHandler, given),
        (r"/heartbeat/([^/]+)/?", HeartbeatHandler, given),
        (r"/register/?", RegisterHandler, given),
        (r"/instances/([^/]+)/?", InstanceHandler, given),
        (r"/heartbeats/?", HeartbeatsHandler, given),
        (r"/deregister/([^/]+)/?", DeregisterHandler, given),
        (r"/drain/([^/]+)/?", WithdrawHandler, given | {"status": "draining"}),
        (r"/maintenance/([^/]+)/?", WithdrawHandler, given | {"status": "maintenance"}),
        (r"/resume/([^/]+)/?", ResumeHandler, given),
        (r"/services/?", ServicesHandler, given),
        (r"/explain/([^/]+)/?", ExplainHandler, given),
        (r"/leases/?", LeasesHandler, given),
        (r"/status/?", StatusHandler, given),
        (r"/livez/?", LivezHandler, given),
        (r"/readyz/?", ReadyzHandler, given),
    ]
