"""What to say to the registry next, and when: the whole life of a registration without a socket, a clock or a task.

A shell asks for `next_request`, sends it, tells what came of it (`answered` or `failed`), and waits `wait` seconds.
"""

import json
import random
import uuid
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple
from urllib.parse import quote

from registryd.core.errors import RegistrydError, StaleGeneration, UnknownInstance

#: Seconds before the second try when the registry cannot be reached; doubled from try to try.
FIRST_RETRY = 0.5
#: The lease in seconds that is reckoned with until the registry has told one.
ASSUMED_TTL = 30.0
#: Statuses that the same request would get again.
_HOPELESS = {400, 413, 414, 431}


class RegistrationRefused(RegistrydError):
    """The registry does not take this registration as it is; trying again would not help."""

    code = "registration_refused"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the registry refuses this registration: {detail}")


class Phase(Enum):
    """Where a registration stands."""

    #: Not registered, or not any more: the next request registers.
    OUT = "out"
    #: Registered: the next request is a heartbeat.
    IN = "in"
    #: Another process has taken the instance_id over, which the caller had chosen: there is nothing left to do.
    TAKEN_OVER = "taken over"


class Request(NamedTuple):
    """An HTTP request to send."""

    method: str
    url: str
    body: bytes


class Session:
    """One registration's talk with the registry.

    `urls` are registries, tried in turn. `instance` is the body of the registration. The instance_id is chosen here
    unless it is in there, so that a registration whose answer was lost can be sent again without making two.
    """

    def __init__(self, urls: Sequence[str], instance: Mapping[str, Any], dice: random.Random) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._id_is_ours = instance.get("instance_id") is None
        self._instance = {name: value for name, value in instance.items() if value is not None}
        self._instance.setdefault("instance_id", str(uuid.UUID(int=dice.getrandbits(128), version=4)))
        self._dice = dice
        self._ttl = float(self._instance.get("ttl", ASSUMED_TTL))
        self._generation: int | None = None
        self._failures = 0
        self.phase = Phase.OUT
        #: Seconds to wait before the next request.
        self.wait = 0.0

    @property
    def instance_id(self) -> str:
        """The id of the instance, the same over its whole life."""
        return str(self._instance["instance_id"])

    @property
    def url(self) -> str:
        """The registry that is spoken to."""
        return self._urls[0]

    def next_request(self) -> Request:
        """The request to send now: a registration, or a heartbeat."""
        if self.phase is Phase.OUT:
            return Request("POST", f"{self.url}/register", json.dumps(self._instance).encode())
        return Request("POST", f"{self.url}/heartbeat/{self._path_and_generation()}", b"")

    def farewell(self) -> Request:
        """The request that ends the registration."""
        return Request("DELETE", f"{self.url}/deregister/{self._path_and_generation()}", b"")

    def answered(self, status: int, body: bytes) -> bool:
        """Takes the answer to `next_request`; gives back whether it makes sense. Raises RegistrationRefused."""
        answer = _json_object(body)
        code = answer.get("code")
        if status == 200 and "ttl" in answer:
            self._is_in(answer)
        elif self.phase is Phase.IN and code == UnknownInstance.code:
            self._is_out()
        elif self.phase is Phase.IN and code == StaleGeneration.code:
            # Nobody else knows an id that we made up: a registration of ours must have arrived twice.
            if self._id_is_ours:
                self._is_out()
            else:
                self.phase = Phase.TAKEN_OVER
        else:
            self.failed()
            if code is not None and status in _HOPELESS:
                raise RegistrationRefused(str(answer.get("detail", code)))
            return False
        return True

    def failed(self) -> None:
        """Takes note that there was no answer, or none that makes sense: back off, and try the next registry."""
        self._failures += 1
        longest = self._ttl / 3
        self.wait = min(longest, FIRST_RETRY * 2 ** min(self._failures - 1, 16)) * self._dice.uniform(0.5, 1.0)
        self._urls.append(self._urls.pop(0))

    def _is_in(self, answer: Mapping[str, Any]) -> None:
        self.phase = Phase.IN
        self._failures = 0
        self._ttl = float(answer["ttl"])
        self._generation = answer.get("generation", self._generation)
        # A third of the lease: two heartbeats may be lost. The jitter keeps a thousand copies from beating as one.
        self.wait = self._ttl / 3 * self._dice.uniform(0.9, 1.1)

    def _is_out(self) -> None:
        self.phase = Phase.OUT
        self._generation = None
        self.wait = 0.0

    def _path_and_generation(self) -> str:
        query = "" if self._generation is None else f"?generation={self._generation}"
        return quote(self.instance_id, safe="") + query


def _json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body; an empty one where there is something else, such as a proxy's page."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
