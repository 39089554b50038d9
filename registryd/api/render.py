"""How things look on the wire. What is shown anywhere is rendered here, once."""

import functools
import itertools
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from registryd.api.shapes import (
    EventShape,
    ExplanationShape,
    InstanceShape,
    LeaseShape,
    LeasesLeftShape,
    OverrideShape,
    RenewedShape,
    ServiceShape,
    ServicesShape,
    SnapshotShape,
    StoryShape,
    WithdrawnShape,
)
from registryd.core.leases import Lease
from registryd.core.model import Change, Override
from registryd.core.services import Service, ServiceCount
from registryd.registry import Story

#: The name under which a service keeps its rendered listing; and how many instances are rendered anew together.
_LISTING = "v1"
FEW = 32
#: Bytes of listings and instances that are kept rendered.
MOST_KEPT = 48 * 1024 * 1024

_encode = msgspec.json.Encoder().encode


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8, with a newline at the end for people with curl."""
    return _encode(value) + b"\n"


@functools.lru_cache(maxsize=4096)
def timestamp(wall: int) -> str:
    """RFC 3339, UTC, to the second: 2024-01-15T10:30:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))


def maybe_timestamp(wall: int | None) -> str | None:
    """The same, or None where there is no time (None or 0)."""
    return timestamp(wall) if wall else None


def instance(entry: Lease | Change) -> InstanceShape:
    """An instance, as it is under a lease or as it was at a change."""
    return InstanceShape(*_parts(entry))


def withdrawn(lease: Lease) -> WithdrawnShape:
    """An instance under an override, and when a reader was last given it."""
    return WithdrawnShape(*_parts(lease), last_handed_out_at=maybe_timestamp(lease.handed_out_at))


def _parts(entry: Lease | Change) -> tuple[Any, ...]:
    registered = entry.instance
    return (
        registered.instance_id,
        registered.service_name,
        registered.base_url,
        timestamp(registered.registered_at),
        timestamp(entry.last_heartbeat),
        entry.status,
        registered.ttl,
        registered.metadata,
        registered.tags,
        registered.version,
        registered.zone,
        registered.weight,
        registered.generation,
        UNSET if entry.override is None else override(entry.override),
        UNSET if entry.suspicion is None else True,
    )


def override(laid: Override) -> OverrideShape:
    """What an operator has laid over an instance."""
    return OverrideShape(laid.status, laid.reason, timestamp(laid.since), maybe_timestamp(laid.until))


def leases_left(left: Iterable[tuple[Lease, float]]) -> LeasesLeftShape:
    """Leases, each with the seconds that are left of it."""
    leases = [
        LeaseShape(
            lease.instance.instance_id, timestamp(lease.last_heartbeat), lease.instance.ttl, max(0.0, round(seconds, 3))
        )
        for lease, seconds in left
    ]
    return LeasesLeftShape(leases, len(leases))


def renewed(lease: Lease) -> RenewedShape:
    """The answer to a heartbeat."""
    instance = lease.instance
    return RenewedShape(
        instance.instance_id, instance.service_name, lease.status, timestamp(lease.last_heartbeat), instance.ttl
    )


def listing(service_name: str, service: Service | None) -> bytes:
    """The instances of a service that are up, as JSON. Rendered anew only where something in it has changed."""
    if service is None:
        return b'{"service_name":"%b","instances":[],"count":0}\n' % service_name.encode()
    if service.rendered is None:
        service.rendered = {}
    body: bytes | None = service.rendered.get(_LISTING)
    if body is None:
        keep = len(service.leases) > FEW
        instances = [_fragment(lease, keep=keep) for lease in service.leases.values() if lease.status == "up"]
        body = service.rendered[_LISTING] = b'{"service_name":"%b","instances":[%b],"count":%d}\n' % (
            service_name.encode(),
            b",".join(instances),
            len(instances),
        )
        if all(lease.listing is service for lease in itertools.islice(service.leases.values(), 1)):  # it is no copy
            _kept.add(service, len(body) * (2 if keep else 1))
    return body


class _Kept:
    """Which listings are kept, the oldest first: with a million instances, all of them would take half as much memory
    again as the instances."""

    def __init__(self) -> None:
        #: By name, so that a service that comes and goes is here once; with the bytes that are kept of it.
        self._sizes: OrderedDict[str, tuple[Service, int]] = OrderedDict()
        self._bytes = 0

    def add(self, service: Service, size: int) -> None:
        """Has this one kept, in place of an earlier one; and as many others are forgotten as are too many."""
        before = self._sizes.pop(service.name, None)
        self._bytes += size - (before[1] if before else 0)
        self._sizes[service.name] = service, size
        while self._bytes > MOST_KEPT and len(self._sizes) > 1:
            _, (forgotten, size) = self._sizes.popitem(last=False)
            self._bytes -= size
            forgotten.rendered = None
            if len(forgotten.leases) > FEW:
                for lease in forgotten.leases.values():
                    lease.rendered = None


_kept = _Kept()


def _fragment(lease: Lease, *, keep: bool) -> bytes:
    """An instance as JSON. Kept where many stand in one list, of which a heartbeat changes one."""
    fragment = lease.rendered
    if fragment is None:
        fragment = _encode(instance(lease))
        if keep:
            lease.rendered = fragment
    return fragment


def service(service_name: str, leases: Iterable[Lease]) -> ServiceShape:
    """The instances of one service."""
    instances = [instance(lease) for lease in leases]
    return ServiceShape(service_name, instances, len(instances))


def services(counts: dict[str, ServiceCount]) -> ServicesShape:
    """All services."""
    return ServicesShape(counts, len(counts))


def snapshot(leases: Iterable[Lease]) -> SnapshotShape:
    """All that a new watcher has to know."""
    instances = [instance(lease) for lease in leases]
    return SnapshotShape(instances, len(instances))


def event(kind: str, index: int, data: object) -> bytes:
    """A server-sent event (WHATWG HTML, section 9.2). JSON has no line break in it, so one data line will do."""
    return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), index, _encode(data))


def change(change: Change) -> bytes:
    """A change as a server-sent event."""
    return event(change.kind, change.index, instance(change))


def explanation(subject: str, stories: Iterable[Story]) -> ExplanationShape:
    """Why an instance, or each instance of a service, is handed out or not."""
    told = [story(one) for one in stories]
    if told:
        return ExplanationShape(subject, told, len(told))
    why = "never seen: no such instance and no such service, or gone for more than an hour"
    return ExplanationShape(subject, [], 0, why)


def story(one: Story) -> StoryShape:
    """One instance: whether it is handed out, why or why not, and the last that happened to it."""
    lease = one.lease
    return StoryShape(
        instance_id=one.instance_id,
        service_name=lease.instance.service_name if lease else one.events[-1].instance.service_name,
        handed_out=lease is not None and lease.status == "up",
        why=_why(one),
        status=lease.status if lease else None,
        override=override(lease.override) if lease and lease.override else None,
        last_handed_out_at=maybe_timestamp(lease.handed_out_at) if lease else None,
        events=[_told(change) for change in one.events],
    )


def _why(one: Story) -> str:
    lease = one.lease
    if lease is None:
        last = one.events[-1]
        what = "its lease ended" if last.kind == "expired" else f"it was {last.kind}"
        return f"{what} at {timestamp(last.at)}: {last.reason}"
    if lease.suspicion is None:
        return _why_listed(lease)
    doubt = lease.suspicion
    return (
        f"{_why_listed(lease)}; it is suspect, as {doubt.silent} of {doubt.of} leases of "
        f"{lease.instance.service_name!r} had gone silent (--suspect-share {doubt.share:g}), so that it may be us who "
        f"cannot be reached: listed until {timestamp(doubt.until)} unless it is heard"
    )


def _why_listed(lease: Lease) -> str:
    if lease.override is not None:
        laid = lease.override
        until = f" until {timestamp(laid.until)}" if laid.until else ""
        reason = f": {laid.reason}" if laid.reason else ""
        return f"an operator has laid {laid.status} over it at {timestamp(laid.since)}{until}{reason}"
    if lease.status != "up":
        return f"it says of itself that it is {lease.status}"
    if lease.is_restored:
        return (
            "it was up before the registry was restarted, and no heartbeat has come since; what was kept of it is of "
            f"{timestamp(lease.last_heartbeat)}"
        )
    return f"it is up, and its last heartbeat came at {timestamp(lease.last_heartbeat)}"


def _told(change: Change) -> EventShape:
    by = change.origin
    token = by.caller.name or UNSET
    return EventShape(timestamp(change.at), change.kind, change.index, change.reason, by.address, by.user_agent, token)
