"""How things look on the wire. What is shown anywhere is rendered here, once."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from registryd.core.leases import Lease
from registryd.core.model import Change
from registryd.core.state import ServiceCount


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8, with a newline at the end for people with curl."""
    return msgspec.json.encode(value) + b"\n"


def timestamp(wall: int) -> str:
    """RFC 3339, UTC, to the second: 2024-01-15T10:30:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))


def instance(entry: Lease | Change) -> dict[str, Any]:
    """An instance, as it is under a lease or as it was at a change."""
    registered = entry.instance
    return {
        "instance_id": registered.instance_id,
        "service_name": registered.service_name,
        "base_url": registered.base_url,
        "registered_at": timestamp(registered.registered_at),
        "last_heartbeat": timestamp(entry.last_heartbeat),
        "status": registered.status,
        "ttl": registered.ttl,
        "metadata": registered.metadata,
        "tags": registered.tags,
        "version": registered.version,
        "zone": registered.zone,
        "weight": registered.weight,
        "generation": registered.generation,
    }


def renewed(lease: Lease) -> dict[str, Any]:
    """The answer to a heartbeat."""
    return {
        "instance_id": lease.instance.instance_id,
        "service_name": lease.instance.service_name,
        "status": lease.instance.status,
        "last_heartbeat": timestamp(lease.last_heartbeat),
        "ttl": lease.instance.ttl,
    }


def service(service_name: str, leases: Iterable[Lease]) -> dict[str, Any]:
    """The instances of one service."""
    instances = [instance(lease) for lease in leases]
    return {"service_name": service_name, "instances": instances, "count": len(instances)}


def services(counts: Mapping[str, ServiceCount]) -> dict[str, Any]:
    """All services."""
    return {"services": counts, "count": len(counts)}
