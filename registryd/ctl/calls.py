"""Calls whose answers are what the commands take them for: something else may be listening there."""

from typing import Any

from registryd.client.answers import TIMEOUT
from registryd.client.errors import NotARegistry
from registryd.client.http import Client
from registryd.client.registries import without_secret

#: What an answer about one instance has in any case.
INSTANCE: dict[str, Any] = {"instance_id": str, "service_name": str}


def call(
    client: Client, method: str, path: str, body: object = None, *, timeout: float = TIMEOUT, **members: Any
) -> dict[str, Any]:
    """What the registry answers, with members of these types; in a list or dict there are objects. Raises as the client
    does, NotARegistry too where it is not so."""
    answer = client.call(method, path, body, timeout=timeout)
    for name, kind in members.items():
        value = answer.get(name) if isinstance(answer, dict) else None
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if not isinstance(value, kind) or not all(isinstance(part, dict) for part in inner):
            url = without_secret(client.registries.url)
            raise NotARegistry(f"what answers at {url} is no registry: it tells no {name}; set REGISTRY_URL")
    return dict(answer)
