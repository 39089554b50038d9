"""The seed's design: a FastAPI app on uvicorn, a dictionary in memory, one lock around every operation, and a list
comprehension over the instances that are not stale: `python tests/bench/peers/seed_fastapi.py PORT`
"""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

HEARTBEAT_TIMEOUT = 86400.0

app = FastAPI()
lock = asyncio.Lock()
services: dict[str, dict[str, dict[str, Any]]] = {}
#: The service of each instance, so that a heartbeat need not look through all of them.
service_of: dict[str, str] = {}
started = datetime.now(UTC)


class Registration(BaseModel):
    """What a service says of itself when it starts."""

    service_name: str
    base_url: str
    instance_id: str | None = None


def timestamp() -> str:
    return datetime.now(UTC).isoformat()


def alive(instance: dict[str, Any]) -> bool:
    age = datetime.now(UTC) - datetime.fromisoformat(instance["last_heartbeat"])
    return age.total_seconds() < HEARTBEAT_TIMEOUT


def known(instance_id: str) -> dict[str, Any]:
    """The instance of this id, or a 404."""
    name = service_of.get(instance_id)
    if name is None:
        raise HTTPException(404, "Instance not found")
    return services[name][instance_id]


@app.post("/register")
async def register(registration: Registration) -> dict[str, Any]:
    async with lock:
        instance_id, now = registration.instance_id or str(uuid4()), timestamp()
        instance = {
            "instance_id": instance_id,
            "service_name": registration.service_name,
            "base_url": registration.base_url,
            "registered_at": now,
            "last_heartbeat": now,
            "status": "up",
        }
        services.setdefault(registration.service_name, {})[instance_id] = instance
        service_of[instance_id] = registration.service_name
        return instance


@app.post("/heartbeat/{instance_id}")
async def heartbeat(instance_id: str) -> dict[str, Any]:
    async with lock:
        instance = known(instance_id)
        instance["last_heartbeat"] = timestamp()
        return {"instance_id": instance_id, "status": "up", "last_heartbeat": instance["last_heartbeat"]}


@app.delete("/deregister/{instance_id}")
async def deregister(instance_id: str) -> dict[str, Any]:
    async with lock:
        instance = known(instance_id)
        del services[service_of.pop(instance_id)][instance_id]
        return instance


@app.get("/services/{service_name}")
async def lookup(service_name: str) -> dict[str, Any]:
    async with lock:
        instances = [instance for instance in services.get(service_name, {}).values() if alive(instance)]
        return {"service_name": service_name, "instances": instances, "count": len(instances)}


@app.get("/services")
async def listing() -> dict[str, Any]:
    async with lock:
        counts = {name: sum(map(alive, instances.values())) for name, instances in services.items()}
        return {"services": {name: {"count": count, "up": count} for name, count in counts.items()}}


@app.get("/status")
async def status() -> dict[str, Any]:
    async with lock:
        uptime = (datetime.now(UTC) - started).total_seconds()
        return {"status": "ok", "uptime_seconds": uptime, "services": len(services), "instances": len(service_of)}


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
    )
