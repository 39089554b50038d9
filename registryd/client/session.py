"""What to say to the registry next, and when: the whole life of a registration without a socket, a clock or a task.

A shell asks for `next_request`, sends it, tells what came of it (`answered` or `failed`), and waits `wait` seconds.
"""

import json
import math
import random
import uuid
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypedDict
from urllib.parse import quote

from registryd.client.errors import RegistrationRefused, RegistrationTokenRefused
from registryd.client.registries import Registries
from registryd.core.errors import StaleGeneration, UnknownInstance

#: Seconds before the second try when the registry cannot be reached; doubled from try to try, up to the longest.
FIRST_RETRY = 0.5
LONGEST_RETRY = 30.0
#: Seconds that an answer may take: a registry answers in milliseconds or not at all. Less where the lease is short.
LONGEST_ANSWER = 3.0
#: The lease in seconds that is reckoned with until the registry has told one.
ASSUMED_TTL = 30.0
#: Statuses of a registry that is there and has no room right now, and the Retry-After that it gives: whoever comes
#: again within that time loses no lease by it.
_OVERLOADED = {429, 503}
AGAIN = 1.0
#: Statuses of a refusal of this one registration, which says nothing against the registry; but for 429 the same request
#: would get them again.
_KNOWN = {400, 401, 403, 413, 414, 429, 431}
#: The part of a third of the lease after which the next heartbeat goes out.
JITTER = 0.9, 1.1


def new_dice() -> random.Random:
    """Chance for jitter and for choices, on which no secret hangs."""
    return random.Random()  # noqa: S311 - jitter


class Phase(Enum):
    """Where a registration stands."""

    #: Not registered, or not any more: the next request registers.
    OUT = "out"
    #: Registered: the next request is a heartbeat.
    IN = "in"
    #: Our heartbeat is for an old life of the id: the next request asks whose the new one is.
    DISPUTED = "disputed"
    #: Another process has taken over the instance_id, which the caller had chosen: there is nothing left to do.
    TAKEN_OVER = "taken over"


class Request(NamedTuple):
    """An HTTP request to send."""

    method: str
    url: str
    body: bytes


class About(TypedDict, total=False):
    """What an instance may say of itself. `instance_id` is chosen by us where it is not given; `ttl` are seconds."""

    instance_id: str | None
    ttl: float | None
    status: str | None
    metadata: Mapping[str, str] | None
    tags: Sequence[str] | None
    version: str | None
    zone: str | None
    weight: int | None


class Session:
    """One registration's talk with the registry.

    `registries` are tried in turn. `instance` is the body of the registration. The instance_id is chosen here
    unless it is in there, so that a registration whose answer was lost can be sent again without making two.
    """

    def __init__(self, registries: Registries, instance: Mapping[str, Any], dice: random.Random) -> None:
        self._registries = registries
        self._instance = {name: _plain(value) for name, value in instance.items() if value is not None}
        #: Whether the caller has chosen the instance_id, so that another process may take it over.
        self.has_chosen_id = "instance_id" in self._instance
        self._instance.setdefault("instance_id", str(uuid.UUID(int=dice.getrandbits(128), version=4)))
        self._body = json.dumps(self._instance).encode()
        self._dice = dice
        self.ttl = _ttl_of(self._instance) or ASSUMED_TTL
        self._generation: int | None = None
        #: The registry that the phase and the generation are about.
        self._at = registries.url
        self._failures = 0
        self.phase = Phase.OUT
        #: Whether there is something to take off: it has been sent, even if nothing has come back.
        self.may_be_listed = False
        #: Whether any registry has ever confirmed the registration.
        self.was_in = False
        #: Seconds to wait before the next request.
        self.wait = 0.0

    @property
    def instance_id(self) -> str:
        """The id of the instance, the same over its whole life."""
        return str(self._instance["instance_id"])

    @property
    def url(self) -> str:
        """The registry that is spoken to."""
        return self._registries.url

    @property
    def timeout(self) -> float:
        """Seconds that an answer may take."""
        return min(LONGEST_ANSWER, max(self.ttl / 3, FIRST_RETRY))

    def settle(self) -> None:
        """Takes note of whether it is another registry that is spoken to now: what one has said means nothing to
        another."""
        if self._at != self.url:
            self._at = self.url
            if self.phase is not Phase.TAKEN_OVER:
                self._is_out(self.wait)

    def next_request(self) -> Request:
        """The request to send now."""
        self.settle()
        if self.phase is Phase.OUT:
            self.may_be_listed = True
            return Request("POST", f"{self.url}/register", self._body)
        if self.phase is Phase.DISPUTED:
            return Request("GET", f"{self.url}/instances/{self._path()}", b"")
        return Request("POST", f"{self.url}/heartbeat/{self._path()}{self._query()}", b"")

    def farewell(self) -> Request:
        """The request that ends the registration."""
        self.settle()
        return Request("DELETE", f"{self.url}/deregister/{self._path()}{self._query()}", b"")

    def answered(self, status: int, body: bytes) -> bool:
        """Takes the answer to `next_request`; gives back whether it makes sense. Raises RegistrationRefused."""
        answer = json_object(body)
        code = answer.get("code")
        if status == 200 and _ttl_of(answer) is not None:
            self._take(answer)
        elif self.phase is not Phase.OUT and code == UnknownInstance.code:
            self._is_out()
        elif self.phase is Phase.IN and code == StaleGeneration.code:
            self.phase = Phase.DISPUTED
            self.wait = 0.0
        else:
            is_known = code is not None and status in _KNOWN
            self.failed(is_other_better=not is_known)
            if status in _OVERLOADED:
                self.wait = min(self.wait, AGAIN * self._dice.uniform(0.5, 1.0))
            if is_known and status != 429:
                kind = RegistrationTokenRefused if status in (401, 403) else RegistrationRefused
                raise kind(str(answer.get("detail", code)), status, str(code), answer.get("field"))
            return False
        return True

    def renewed(self, jitter: float) -> None:
        """A heartbeat for many has renewed the lease of this one too."""
        self._failures = 0
        # A third of the lease: two heartbeats may be lost. The jitter keeps a thousand copies from beating as one.
        self.wait = self.ttl / 3 * jitter

    def forgotten(self) -> None:
        """A heartbeat for many has found that the registry does not know this one."""
        self._is_out()

    def failed(self, *, is_other_better: bool = True) -> None:
        """Takes note that there was no answer, or none that makes sense: back off, and try the next registry, unless
        that would say the same."""
        longest = max(FIRST_RETRY, min(LONGEST_RETRY, self.ttl / 3))
        self.wait = min(longest, FIRST_RETRY * 2 ** min(self._failures, 16)) * self._dice.uniform(0.5, 1.0)
        self._failures += 1
        if is_other_better:
            self._registries.leave(self._at)
            self.settle()

    def _take(self, answer: Mapping[str, Any]) -> None:
        if self.phase is Phase.DISPUTED:
            # A registration of ours may have arrived twice, the first one late. Then the new life is ours as well.
            same = all(answer.get(name) == self._instance[name] for name in ("service_name", "base_url"))
            self.phase = Phase.OUT if same else Phase.TAKEN_OVER
            self.may_be_listed = same
            self._generation = None
            return
        self.ttl = _ttl_of(answer) or self.ttl
        generation = answer.get("generation", self._generation)
        self._generation = generation if isinstance(generation, int) else None
        self.phase = Phase.IN
        self.was_in = True
        self.renewed(self._dice.uniform(*JITTER))

    def _is_out(self, wait: float = 0.0) -> None:
        self.phase = Phase.OUT
        self.may_be_listed = False
        self._generation = None
        self.wait = wait

    def _path(self) -> str:
        return quote(self.instance_id, safe="")

    def _query(self) -> str:
        return "" if self._generation is None else f"?generation={self._generation}"


def _plain(value: Any) -> Any:
    """What json renders, for whatever reads like it."""
    if isinstance(value, Mapping):
        return dict(value)
    return value if isinstance(value, str | int | float) else list(value)


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; an empty one where there is something else, such as a proxy's page."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _ttl_of(answer: Mapping[str, Any]) -> float | None:
    """The length of lease in an answer, where there is one that can be."""
    ttl = answer.get("ttl")
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        return None
    return float(ttl) if 1 <= ttl < math.inf else None
