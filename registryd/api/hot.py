"""The hot calls as finished bytes, for a server that can answer from a table: the same bytes, header by header, as
their handlers in v1.py would send. Anything out of the ordinary is left to those.
"""

import asyncio
from asyncio import Future
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Protocol

from tornado.httputil import format_timestamp

from registryd.api import render
from registryd.api.base import NOT_A_PAGE, REFUSALS, SERVER, log_fault, note_refusal, whole_problem
from registryd.api.context import Context
from registryd.api.problems import problem_of
from registryd.core.errors import RegistrydError, Unauthorized
from registryd.core.leases import Lease
from registryd.core.model import Origin, Register

#: The name under which a service keeps the rest of the head of its answer, with the index that is in it.
_HEAD = "v1 head"
_NO_HEAD = (-1, b"")

#: The route of a registration.
REGISTER = "/register"

_LENGTHS = [b"\r\nContent-Length: %d\r\n\r\n" % length for length in range(1024)]


class Asker(Protocol):
    """Who asks."""

    @property
    def remote_ip(self) -> str: ...
    @property
    def subject(self) -> str: ...


class Told(Protocol):
    """What the headers of a request tell."""

    @property
    def user_agent(self) -> str: ...
    @property
    def authorization(self) -> str | None: ...


#: What follows the prefix in the target, the body, who asks and what the headers tell: the answer, its future, or None.
Answer = Callable[[bytes, bytes, Any, Any], "bytes | Future[bytes] | None"]


class HotCalls:
    """Answers, or gives back None where the handler must, having changed nothing."""

    def __init__(self, context: Context) -> None:
        self._registry = context.registry
        self._index_of = context.registry.feed.index_of
        self._reader = context.reader
        self._under_way = context.under_way
        self._access = context.access
        self._rates = context.overload.rates
        self._traffic = context.traffic
        #: How many were answered at once: a plain number each, as nothing else is cheap enough.
        self._lookups = self._heartbeats = self._registrations = 0
        lookups = context.traffic.answers("GET", "/services/{service_name}", 200).hot(lambda: self._lookups)
        heartbeats = context.traffic.answers("POST", "/heartbeat/{instance_id}", 200).hot(lambda: self._heartbeats)
        registrations = context.traffic.answers("POST", REGISTER, 200).hot(lambda: self._registrations)
        self._table = [
            (b"GET /services/", self._counted(self.lookup), lookups),
            (b"POST /heartbeat/", self.heartbeat, heartbeats),
            (b"POST /register", self._counted(self.register), registrations),
        ]
        #: The current second since 1970, and what is the same in all answers until it is over.
        self._second = 0
        self._first = b""

    def table(self) -> list[tuple[bytes, Answer]]:
        """Each call by the beginning of its request line. A heartbeat is never one too many."""
        return [(prefix, function) for prefix, function, _ in self._table]

    def timed(self, function: Answer) -> Answer:
        """The same call, which takes note of how long it takes where it answers at once."""
        hot = next(hot for _, known, hot in self._table if known == function)

        def timed(rest: bytes, body: bytes, asker: Asker, told: Told) -> "bytes | Future[bytes] | None":
            begun = perf_counter()
            answer = function(rest, body, asker, told)
            if isinstance(answer, bytes):
                hot.sample(perf_counter() - begun)
            return answer

        return timed

    def _counted(self, answer: Answer) -> Answer:
        """The same for as many requests of one address as there may be; others are for their handler, which is not
        reached."""
        rates = self._rates

        def counted(rest: bytes, body: bytes, asker: Asker, told: Told) -> "bytes | Future[bytes] | None":
            if not rates.most:
                return answer(rest, body, asker, told)
            if not rates.take(asker.remote_ip):
                return None
            answered = answer(rest, body, asker, told)
            if answered is None:
                rates.give_back(asker.remote_ip)  # it is counted where it goes
            return answered

        return counted

    def lookup(self, name: bytes, body: bytes, asker: Asker, told: Told) -> bytes | None:
        """`GET /services/{service_name}` without parameters, of a service that has instances."""
        if self._registry.is_recovering:
            return None
        service_name = name.decode("latin-1")
        if not (self._access.is_open or self._may_read(service_name, asker, told)):
            return None
        service = self._registry.listing(service_name)
        if service is None:
            return None
        body = render.listing(service.name, service)
        rendered = service.rendered
        assert rendered is not None
        index = self._index_of(service.name)
        known: int
        head: bytes
        known, head = rendered.get(_HEAD, _NO_HEAD)
        if known != index:
            head = b'\r\nRegistry-Index: %d\r\nEtag: W/"%d"\r\nContent-Length: %d\r\n\r\n' % (index, index, len(body))
            rendered[_HEAD] = index, head
        self._lookups += 1
        second = service.listed_at
        # As in `_whole`: to call for what is mostly the same would cost more than all that is counted here.
        return (self._first if second == self._second else self._begin(second)) + head + body

    def heartbeat(self, instance_id: bytes, body: bytes, asker: Asker, told: Told) -> bytes | None:
        """`POST /heartbeat/{instance_id}` without a body, of an instance that is registered."""
        if body:
            return None
        try:
            caller = self._access.caller(told.authorization, asker.subject)
            lease = self._registry.renew(instance_id.decode("latin-1"), None, caller)
        except RegistrydError:
            return None
        self._heartbeats += 1
        return self._whole(render.json_bytes(render.renewed(lease)), lease.last_heartbeat)

    def register(self, rest: bytes, body: bytes, asker: Asker, told: Told) -> "bytes | Future[bytes] | None":
        """`POST /register`; the answer comes later where there is something to wait for."""
        if rest:
            return None
        try:
            origin = Origin(
                asker.remote_ip, told.user_agent[:256], self._access.caller(told.authorization, asker.subject)
            )
            command = self._reader.body(Register, body)
            if not self._registry.changes_at_once:
                return self._later(self._register(command, origin))
            lease = self._registry.register_at_once(command, origin)
        except RegistrydError:
            return None
        self._registrations += 1
        return self._registered(lease)

    async def _register(self, command: Register, origin: Origin) -> bytes:
        begun, status = perf_counter(), 200
        try:
            answer = self._registered(await self._registry.register(command, origin))
        except Exception as error:
            log_fault("POST /register", error)
            if isinstance(error, REFUSALS):
                note_refusal(self._access, error, origin.address, "POST /register")
            problem = problem_of(error)
            answer, status = whole_problem(problem), problem.status
        self._traffic.note("POST", REGISTER, status, perf_counter() - begun)
        return answer

    def _may_read(self, service_name: str, asker: Asker, told: Told) -> bool:
        try:
            return self._access.caller(told.authorization, asker.subject).may("read", service_name)
        except Unauthorized:
            return False

    def _registered(self, lease: Lease) -> bytes:
        return self._whole(render.json_bytes(render.instance(lease)), lease.last_heartbeat)

    def _later(self, answering: Coroutine[Any, Any, bytes]) -> "Future[bytes]":
        """An answer that a stop waits for."""
        coming = asyncio.ensure_future(answering)
        self._under_way.begin(coming, coming)
        self._under_way.arrived(coming)
        coming.add_done_callback(self._under_way.end)
        return coming

    def _begin(self, second: int) -> bytes:
        """The status line and the first headers of another second."""
        self._second = second
        self._first = (
            f"HTTP/1.1 200 OK\r\nServer: {SERVER}\r\nContent-Type: application/json\r\n"
            f"Date: {format_timestamp(second)}\r\n{': '.join(NOT_A_PAGE)}"
        ).encode()
        return self._first

    def _whole(self, body: bytes, second: int) -> bytes:
        length = len(body)
        if length >= len(_LENGTHS):
            return b"%b\r\nContent-Length: %d\r\n\r\n%b" % (self._begin(second), length, body)
        return (self._first if second == self._second else self._begin(second)) + _LENGTHS[length] + body
