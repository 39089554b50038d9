"""What an answer means, and what to say where there is none. Knows no socket."""

import json
from http.client import HTTPException
from typing import Any
from urllib.parse import SplitResult, urlsplit

from registryd.client.errors import NotARegistry, Refused, RegistryUnreachable, TokenRefused
from registryd.client.registries import without_secret

#: Seconds that an answer may take: a registry answers in milliseconds or not at all.
TIMEOUT = 3.0
#: Seconds without a word after which a watched registry is held to be gone: it sends a comment each 15.
SILENCE = 20.0
#: What goes wrong where there is no answer.
NO_ANSWER = (OSError, HTTPException)


def parsed(url: str, status: int, body: bytes) -> Any:
    """The value of a good answer. Raises Refused for a registry's refusal, NotARegistry for what is no registry's."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if status == 200 and isinstance(value, dict | list):
        return value
    if isinstance(value, dict) and value.get("code") == "unknown_path":  # of a registry, whose URL is another one
        raise NotARegistry(
            f"what answers at {without_secret(url)} is no registry: it has no such call; set REGISTRY_URL"
        )
    if isinstance(value, dict) and isinstance(value.get("code"), str):
        field = value.get("field")
        kind = TokenRefused if status in (401, 403) else Refused
        raise kind(str(value.get("detail", "")), status, value["code"], None if field is None else str(field))
    raise NotARegistry(f"what answers at {without_secret(url)} is no registry (status {status}); set REGISTRY_URL")


def split(url: str) -> SplitResult:
    """The parts of a registry's URL. Raises HTTPException where it is none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            parts.hostname.encode("idna")  # as whoever looks for its address does
            return parts
    except ValueError:
        pass
    raise HTTPException("this is no http:// or https:// URL")


def target_of(parts: SplitResult) -> str:
    """What a request asks a server for."""
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def no_events(url: str, why: object) -> NotARegistry:
    """What to say where /watch sends something else."""
    return NotARegistry(f"what answers at {without_secret(url)} sends no events of a registry: {why}; set REGISTRY_URL")


def unreachable(url: str, error: BaseException) -> RegistryUnreachable:
    """What to say where there was no answer."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return RegistryUnreachable(f"no answer from the registry at {without_secret(url)}: {why}")
