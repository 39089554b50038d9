"""The hot calls as finished bytes, for a server that can answer from a table: the same bytes, header by header, as
their handlers in v1.py would send. Anything out of the ordinary is left to those.
"""

from collections.abc import Callable

from tornado.httputil import format_timestamp

from registryd.api import render
from registryd.api.base import SERVER
from registryd.api.context import Context
from registryd.core.errors import RegistrydError, UnknownInstance
from registryd.core.model import Origin, Register
from registryd.core.services import Service

#: Answers that are kept whole for the rest of a second, and the longest of them in bytes.
MOST_LOOKED_UP = 4096
LONGEST = 16 * 1024

_LENGTHS = [b"\r\nContent-Length: %d\r\n\r\n" % length for length in range(1024)]

#: What follows the prefix in the target, the body, the asker's address and User-Agent: the answer, or None.
Answer = Callable[[bytes, bytes, str, str], bytes | None]


class HotCalls:
    """Answers, or gives back None where the handler must, having changed nothing."""

    def __init__(self, context: Context) -> None:
        self._registry = context.registry
        self._reader = context.reader
        #: The current second since 1970, and what is the same in all answers until it is over.
        self._second = 0
        self._first = b""
        #: What was looked up in this second: the service, what was rendered of it then, the index, and the answer.
        self._looked_up: dict[bytes, tuple[Service, object, int, bytes]] = {}

    def table(self) -> list[tuple[bytes, Answer]]:
        """Each call by the beginning of its request line."""
        return [
            (b"GET /services/", self.lookup),
            (b"POST /heartbeat/", self.heartbeat),
            (b"POST /register", self.register),
        ]

    def lookup(self, name: bytes, body: bytes, address: str, user_agent: str) -> bytes | None:  # noqa: ARG002
        """`GET /services/{service_name}` without parameters, of a service that has instances."""
        registry = self._registry
        second = registry.settled()
        if second != self._second:
            self._begin(second)
        known = self._looked_up.get(name)
        if known is not None and not registry.is_behind:
            service, rendered, index, answer = known
            if service.rendered is rendered and registry.feed.index_of(service.name) == index:
                service.listings += 1
                service.listed_at = second
                return answer
        return self._look_up(name)

    def _look_up(self, name: bytes) -> bytes | None:
        service_name = name.decode("latin-1")
        service = self._registry.listing(service_name)
        if service is None:
            return None
        body = render.listing(service_name, service)
        index = self._registry.feed.index_of(service_name)
        head = b'\r\nRegistry-Index: %d\r\nEtag: W/"%d"\r\nContent-Length: %d\r\n\r\n' % (index, index, len(body))
        answer = self._first + head + body
        if len(body) <= LONGEST and not self._registry.is_behind and len(self._looked_up) < MOST_LOOKED_UP:
            self._looked_up[name] = service, service.rendered, index, answer
        return answer

    def heartbeat(self, instance_id: bytes, body: bytes, address: str, user_agent: str) -> bytes | None:  # noqa: ARG002
        """`POST /heartbeat/{instance_id}` without a body, of an instance that is registered."""
        if body:
            return None
        try:
            lease = self._registry.renew(instance_id.decode("latin-1"))
        except UnknownInstance:
            return None
        second = lease.last_heartbeat
        if second != self._second:
            self._begin(second)
        return self._whole(render.json_bytes(render.renewed(lease)))

    def register(self, rest: bytes, body: bytes, address: str, user_agent: str) -> bytes | None:
        """`POST /register`, where nothing has to be waited for."""
        if rest or not self._registry.changes_at_once:
            return None
        try:
            command = self._reader.body(Register, body)
            lease = self._registry.register_at_once(command, Origin(address, user_agent[:256]))
        except RegistrydError:
            return None
        second = lease.last_heartbeat
        if second != self._second:
            self._begin(second)
        return self._whole(render.json_bytes(render.instance(lease)))

    def _begin(self, second: int) -> None:
        """Another second has begun: the status line and the first headers until it is over."""
        self._second = second
        self._looked_up.clear()
        self._first = (
            f"HTTP/1.1 200 OK\r\nServer: {SERVER}\r\nContent-Type: application/json\r\nDate: {format_timestamp(second)}"
        ).encode()

    def _whole(self, body: bytes) -> bytes:
        length = len(body)
        if length >= len(_LENGTHS):
            return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._first, length, body)
        return self._first + _LENGTHS[length] + body
