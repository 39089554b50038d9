"""The calls of registryd's own interface."""

from typing import Any

from msgspec import Struct

from registryd.api import render
from registryd.api.base import Handler, call
from registryd.api.context import Context
from registryd.api.problems import NotReady
from registryd.core.model import Deregister, Register, Report, Update


class OfGeneration(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a call that may be meant for one life of an instance only."""

    generation: int | None = None


class RegisterHandler(Handler):
    """`POST /register`"""

    @call(body=Register)
    async def post(self, *, body: Register) -> object:
        """Lists an instance."""
        return render.instance(await self.registry.register(body))


class HeartbeatHandler(Handler):
    """`POST /heartbeat/{instance_id}`"""

    @call(query=OfGeneration, body=Report)
    async def post(self, instance_id: str, *, query: OfGeneration, body: Report) -> object:
        """Renews a lease, and takes what the instance reports of itself."""
        if body.is_empty():
            return render.renewed(self.registry.renew(instance_id, query.generation))
        return render.renewed(await self.registry.update(Update(instance_id, body, query.generation)))


class DeregisterHandler(Handler):
    """`DELETE /deregister/{instance_id}`"""

    @call(query=OfGeneration)
    async def delete(self, instance_id: str, *, query: OfGeneration) -> object:
        """Takes an instance off the list."""
        return render.instance(await self.registry.deregister(Deregister(instance_id, query.generation)))


class InstanceHandler(Handler):
    """`GET /instances/{instance_id}`"""

    @call()
    def get(self, instance_id: str) -> object:
        """Shows one instance, whatever its status."""
        self.take_index(self.registry.index())
        return render.instance(self.registry.lease(instance_id))

    head = get


class ServiceHandler(Handler):
    """`GET /services/{service_name}`"""

    @call()
    def get(self, service_name: str) -> object:
        """Lists the instances of a service that are up."""
        self.reader.rules.check("service_name", service_name)
        # The index first: should a lease end right now, the list is newer than it says, never older.
        self.take_index(self.registry.index(service_name), etag=True)
        return render.service(service_name, self.registry.up(service_name))

    head = get


class ServicesHandler(Handler):
    """`GET /services`"""

    @call()
    def get(self) -> object:
        """Lists the services."""
        self.take_index(self.registry.index(), etag=True)
        return render.services(self.registry.services())

    head = get


class StatusHandler(Handler):
    """`GET /status`"""

    @call()
    def get(self) -> object:
        """Tells how the registry is."""
        daemon = self.daemon
        tally, index = self.registry.tally(), self.registry.index()
        stalls, stalled_seconds = daemon.stalls()
        reasons = daemon.reasons()
        self.take_index(index)
        status: dict[str, Any] = {"status": "degraded", "reasons": reasons} if reasons else {"status": "ok"}
        return status | {
            "version": daemon.version,
            "started_at": render.timestamp(daemon.started_wall),
            "uptime_seconds": round(daemon.uptime(), 3),
            "services": tally.services,
            "instances": tally.instances,
            "watchers": 0,
            "index": index,
            "heartbeat_timeout": daemon.heartbeat_timeout,
            "cleanup_interval": daemon.cleanup_interval,
            "store": {"kind": daemon.store_kind},
            "leases": {
                "renewed": tally.renewed,
                "expired": tally.expired,
                "stalls": stalls,
                "stalled_seconds": round(stalled_seconds, 3),
            },
        }

    head = get


class LivezHandler(Handler):
    """`GET /livez`"""

    @call()
    def get(self) -> object:
        """Answers, which is all there is to prove."""
        return "ok\n"

    head = get


class ReadyzHandler(Handler):
    """`GET /readyz`"""

    @call()
    def get(self) -> object:
        """Answers while everything that serving needs is there."""
        unready = self.daemon.unready()
        if unready:
            raise NotReady(unready)
        return "ok\n"

    head = get


def routes(context: Context) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """Every path of this face, for an Application."""
    paths: list[tuple[str, type[Handler]]] = [
        (r"/register/?", RegisterHandler),
        (r"/heartbeat/([^/]+)/?", HeartbeatHandler),
        (r"/deregister/([^/]+)/?", DeregisterHandler),
        (r"/services/?", ServicesHandler),
        (r"/services/([^/]+)/?", ServiceHandler),
        (r"/instances/([^/]+)/?", InstanceHandler),
        (r"/status/?", StatusHandler),
        (r"/livez/?", LivezHandler),
        (r"/readyz/?", ReadyzHandler),
    ]
    return [(path, handler, {"context": context}) for path, handler in paths]
