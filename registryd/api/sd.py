"""`GET /sd/prometheus`: the instances as targets, in the form of Prometheus's http_sd.

Prometheus takes each answer for the whole truth, and drops what is not in it; but where an answer is no 200, or one
label in it has a name that is none, it keeps the targets that it has. So this is all there is, or a refusal.
"""

import asyncio
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct, field

from registryd.api.base import Handler, call
from registryd.api.context import Context
from registryd.api.filters import choice_of
from registryd.core.model import Instance, Status, parse_base_url

#: Instances that are rendered before others get their turn.
SLICE = 50
#: What Prometheus can speak, each with its port.
PORTS = {"http": 80, "https": 443}
#: Keys of metadata by which an instance says where its metrics are, as annotations do in Kubernetes.
SCRAPE, SCHEME, PORT, PATH = (f"prometheus.io/{name}" for name in ("scrape", "scheme", "port", "path"))

_encode = msgspec.json.Encoder().encode
_NOT_IN_A_LABEL = re.compile("[^A-Za-z0-9_]")
_PORT = re.compile("[1-9][0-9]{0,4}")


class TargetsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of which services the targets are wanted (none: of all), and which of them."""

    services: tuple[str, ...] = field(name="service", default=())
    statuses: str | None = field(name="status", default=None)
    tag: tuple[str, ...] = ()
    version: str | None = None
    zone: str | None = None
    meta: dict[str, str] | None = None


class TargetsShape(Struct):
    """An instance as a target: where its metrics are, and what is known of it."""

    targets: list[str]
    labels: dict[str, str]


def target(instance: Instance, status: Status) -> TargetsShape | None:
    """An instance as a target; None where it does not want to be one, or nobody can know its port."""
    at, metadata = parse_base_url(instance.base_url), instance.metadata
    if metadata.get(SCRAPE, "true").lower() == "false":
        return None
    scheme, path = metadata.get(SCHEME, ""), metadata.get(PATH, "")
    if scheme not in PORTS:
        scheme = at.scheme
    port = _port(metadata.get(PORT, "")) or at.port or PORTS.get(scheme)
    if port is None:
        return None
    labels = {
        "__meta_registryd_service": instance.service_name,
        "__meta_registryd_instance_id": instance.instance_id,
        "__meta_registryd_status": status,
        "__meta_registryd_zone": instance.zone,
        "__meta_registryd_version": instance.version,
        "__meta_registryd_tags": f",{','.join(instance.tags)},",
        "__meta_registryd_scheme": at.scheme,
    }
    for key in sorted(metadata):
        labels.setdefault(_label(key), metadata[key])
    if scheme in PORTS:
        labels["__scheme__"] = scheme
    if path.startswith("/"):
        labels["__metrics_path__"] = path
    host = f"[{at.host}]" if ":" in at.host else at.host
    return TargetsShape([f"{host}:{port}"], labels)


@functools.lru_cache(maxsize=4096)
def _label(key: str) -> str:
    """The label of a key of metadata. One with another name would have Prometheus refuse the whole list."""
    return f"__meta_registryd_metadata_{_NOT_IN_A_LABEL.sub('_', key)}"


def _port(text: str) -> int | None:
    """A port that someone has named, if it is one."""
    return int(text) if _PORT.fullmatch(text) and int(text) <= 65535 else None


class TargetsHandler(Handler):
    """`GET /sd/prometheus`"""

    @call(query=TargetsQuery, answer=list[TargetsShape], refusals=(503,), needs=("read",))
    async def get(self, *, query: TargetsQuery) -> object:
        """Lists the instances as targets for Prometheus (http_sd), whatever their status, unless the query says
        otherwise."""
        for service_name in query.services:
            self.caller.must("read", service_name)
        self.must_know()
        self.take_index(self.registry.index())
        parts: list[bytes] = []
        for number, (instance, status) in enumerate(self._there(query), 1):
            shown = target(instance, status)
            if shown is not None:
                parts.append(_encode(shown))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return b"[" + b",\n".join(parts) + b"]\n"

    head = get

    def _there(self, query: TargetsQuery) -> Iterator[tuple[Instance, Status]]:
        """What is wanted, in an order that stays: all of it as it is now, however long it takes to render."""
        may = self.caller.may
        names = sorted(query.services) or [name for name in self.registry.services() if may("read", name)]
        leases = self.registry.snapshot(names, choice_of(query, None), hand_out=self.gives) if names else []
        there = [(lease.instance, lease.status) for lease in leases]
        by_service = itertools.groupby(there, key=lambda one: one[0].service_name)
        return (one for _, some in by_service for one in sorted(some, key=lambda one: one[0].instance_id))


def routes(context: Context) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """The path of this face, for an Application."""
    return [(r"/sd/prometheus/?", TargetsHandler, {"context": context})]
