"""The seed's design on plain Tornado: a RequestHandler for each call, `json.dumps`, and Tornado's own server:
`python tests/bench/peers/seed_tornado.py PORT`
"""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from tornado.web import Application, HTTPError, RequestHandler

HEARTBEAT_TIMEOUT = 86400.0

lock = asyncio.Lock()
services: dict[str, dict[str, dict[str, Any]]] = {}
#: The service of each instance, so that a heartbeat need not look through all of them.
service_of: dict[str, str] = {}
started = datetime.now(UTC)


def timestamp() -> str:
    return datetime.now(UTC).isoformat()


def alive(instance: dict[str, Any]) -> bool:
    age = datetime.now(UTC) - datetime.fromisoformat(instance["last_heartbeat"])
    return age.total_seconds() < HEARTBEAT_TIMEOUT


def known(instance_id: str) -> dict[str, Any]:
    """The instance of this id, or a 404."""
    name = service_of.get(instance_id)
    if name is None:
        raise HTTPError(404, "Instance not found")
    return services[name][instance_id]


class Answering(RequestHandler):
    """Answers in JSON."""

    def answer(self, content: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(content))


class RegisterHandler(Answering):
    async def post(self) -> None:
        async with lock:
            asked = json.loads(self.request.body)
            name, url = asked.get("service_name"), asked.get("base_url")
            if not isinstance(name, str) or not isinstance(url, str):
                raise HTTPError(400, "service_name and base_url are required")
            instance_id, now = asked.get("instance_id") or str(uuid4()), timestamp()
            instance = {
                "instance_id": instance_id,
                "service_name": name,
                "base_url": url,
                "registered_at": now,
                "last_heartbeat": now,
                "status": "up",
            }
            services.setdefault(name, {})[instance_id] = instance
            service_of[instance_id] = name
            self.answer(instance)


class HeartbeatHandler(Answering):
    async def post(self, instance_id: str) -> None:
        async with lock:
            instance = known(instance_id)
            instance["last_heartbeat"] = timestamp()
            self.answer({"instance_id": instance_id, "status": "up", "last_heartbeat": instance["last_heartbeat"]})


class DeregisterHandler(Answering):
    async def delete(self, instance_id: str) -> None:
        async with lock:
            instance = known(instance_id)
            del services[service_of.pop(instance_id)][instance_id]
            self.answer(instance)


class LookupHandler(Answering):
    async def get(self, service_name: str) -> None:
        async with lock:
            instances = [instance for instance in services.get(service_name, {}).values() if alive(instance)]
            self.answer({"service_name": service_name, "instances": instances, "count": len(instances)})


class ListingHandler(Answering):
    async def get(self) -> None:
        async with lock:
            counts = {name: sum(map(alive, instances.values())) for name, instances in services.items()}
            self.answer({"services": {name: {"count": count, "up": count} for name, count in counts.items()}})


class StatusHandler(Answering):
    async def get(self) -> None:
        async with lock:
            uptime = (datetime.now(UTC) - started).total_seconds()
            tally = {"services": len(services), "instances": len(service_of)}
            self.answer({"status": "ok", "uptime_seconds": uptime, **tally})


async def serve(port: int) -> None:
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    routes = [
        (r"/register", RegisterHandler),
        (r"/heartbeat/([^/]+)", HeartbeatHandler),
        (r"/deregister/([^/]+)", DeregisterHandler),
        (r"/services/([^/]+)", LookupHandler),
        (r"/services", ListingHandler),
        (r"/status", StatusHandler),
    ]
    Application(routes).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
