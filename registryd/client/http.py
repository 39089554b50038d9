"""HTTP with the registries for a program that may wait: one call, or the events of /watch, of whichever answers.

    from registryd.client.http import Client

    client = Client()                                   # REGISTRY_URL, REGISTRY_TOKEN and so on say where and as whom
    client.call("GET", "/services/users")               # {"service_name": "users", "instances": [...], "count": 2}
    client.call("POST", "/drain/users-1", {"reason": "deploy 42"})
    for event in client.watch(["users"]):               # until the stream ends: see `watch`
        print(event.kind, event.index, event.data)

It needs the standard library alone, on any system.
"""

import contextlib
import io
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, TypeVar, cast
from urllib.parse import urlencode

from registryd.client.answers import NO_ANSWER, SILENCE, TIMEOUT, no_events, parsed, split, target_of, unreachable
from registryd.client.errors import Refused, RegistryUnreachable
from registryd.client.events import Event, Parser
from registryd.client.registries import Registries

T = TypeVar("T")

#: Bytes of an answer beyond which this is no registry.
MOST_BYTES = 1024 * 1024 * 1024
#: Bytes that are read of a stream at a time, and seconds after which one looks up from waiting for them.
CHUNK = 256 * 1024
LOOK_UP = 1.0
#: Statuses of a registry that cannot do it now, where another may.
_NOT_NOW = {429, 500, 502, 503, 504}


class Client:
    """Speaks with one of several registries. May be used by several threads."""

    def __init__(self, registries: Registries | None = None) -> None:
        self.registries = registries or Registries.of(os.environ)
        #: The registry that was watched last.
        self._watched: str | None = None

    def call(self, method: str, path: str, body: object = None, *, timeout: float = TIMEOUT) -> Any:
        """What the registry answers, read as JSON. `path` has its query in it, parts percent-encoded; `body` is sent as
        JSON; `timeout` is the longest silence in seconds (more than its `wait`, for a call that waits).

        Registries are tried in turn. Where none does it, raises the first Refused, whose `status` and `code` say why
        (TokenRefused for 401 and 403), or RegistryUnreachable (and its kind NotARegistry) with what came of each. What
        another registry would refuse as well is raised at once. Raises BadSetting where the environment cannot be
        used."""
        sent = None if body is None else json.dumps(body).encode()

        def ask(url: str) -> Any:
            return parsed(url, *self.send(method, url + path, sent, timeout=timeout))

        return self._first_of(ask)

    def _first_of(self, ask: Callable[[str], T]) -> T:
        """What the first registry gives of which there is an answer."""
        troubles: list[RegistryUnreachable | Refused] = []
        for _ in range(len(self.registries)):
            url = self.registries.url
            try:
                return ask(url)
            except NO_ANSWER as error:
                troubles.append(unreachable(url, error))
            except RegistryUnreachable as error:
                troubles.append(error)
            except Refused as error:
                if error.status not in _NOT_NOW:
                    raise
                troubles.append(error)
            self.registries.leave(url)
        refused = next((trouble for trouble in troubles if isinstance(trouble, Refused)), None)
        if refused is not None or len(troubles) == 1:
            raise refused or troubles[0]
        raise RegistryUnreachable("; ".join(map(str, troubles)))

    def send(self, method: str, url: str, body: bytes | None, *, timeout: float) -> tuple[int, bytes]:
        """One request, on a connection of its own: the status and body of its answer. Raises NO_ANSWER, BadSetting."""
        with contextlib.closing(self._connect(url, timeout)) as connection:
            self._ask(connection, method, url, body)
            response = connection.getresponse()
            answer = response.read(MOST_BYTES + 1)
            if len(answer) > MOST_BYTES:
                raise HTTPException(f"an answer of more than {MOST_BYTES} bytes")
            return response.status, answer

    def watch(
        self, services: Sequence[str] = (), last_index: int | None = None, *, silence: float = SILENCE
    ) -> Iterator[Event]:
        """The events of some services (none: all), comments included, until the stream ends: which it does when the
        registry stops, so come again then, with the index of the last event, to go on without loss. Another registry
        than the last time knows nothing of that index, and begins with a snapshot. Raises as `call` does, and
        RegistryUnreachable after `silence` seconds without a word."""

        def ask(url: str) -> Stream:
            return self.open(services, last_index if url == self._watched else None, silence=silence)

        self._watched = self._watched or self.registries.url
        with contextlib.closing(self._first_of(ask)) as stream:
            self._watched = stream.url
            yield from stream

    def open(
        self,
        services: Sequence[str],
        last_index: int | None,
        *,
        silence: float = SILENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> "Stream":
        """A stream of events of the registry that is spoken to. Raises RegistryUnreachable, Refused, BadSetting."""
        url, asked_at = self.registries.url, clock()
        query = urlencode([("service", name) for name in services])
        headers = {} if last_index is None else {"Last-Event-ID": str(last_index)}
        with contextlib.ExitStack() as stack:
            try:
                connection = stack.enter_context(contextlib.closing(self._connect(url, TIMEOUT)))
                self._ask(connection, "GET", f"{url}/watch" + (query and f"?{query}"), None, headers)
                wire = Wire(connection.sock, clock, asked_at)
                response = HTTPResponse(cast("socket.socket", wire), method="GET")
                response.begin()
                if response.status != 200 or response.headers.get_content_type() != "text/event-stream":
                    parsed(url, response.status, response.read(MOST_BYTES))
                    raise no_events(url, f"it is {response.headers.get_content_type()}")
            except NO_ANSWER as error:
                raise unreachable(url, error) from error
            wire.patience = silence
            stack.pop_all()
        return Stream(url, wire, response)

    def _connect(self, url: str, timeout: float) -> HTTPConnection:
        """A connection that is not open yet. Raises NO_ANSWER."""
        parts = split(url)
        if parts.scheme == "https":
            return HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=self.registries.tls)
        return HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)

    def _ask(
        self, connection: HTTPConnection, method: str, url: str, body: bytes | None, more: dict[str, str] | None = None
    ) -> None:
        headers = ({"Content-Type": "application/json"} if body else {}) | self.registries.headers_for(url)
        connection.request(method, target_of(split(url)), body, headers | (more or {}))


class Wire(io.RawIOBase):
    """The bytes that come on a socket, and since when they may have been there: who was stopped for a minute must not
    take what comes after that for new."""

    def __init__(self, sock: socket.socket, clock: Callable[[], float], asked_at: float) -> None:
        self._socket = sock
        self._clock = clock
        #: Seconds without a byte after which the other side is held to be gone.
        self.patience = TIMEOUT
        #: When it was asked for what comes.
        self.asked_at = asked_at
        #: A moment at which nothing of what has been read last had come yet.
        self.heard_at = asked_at
        self._empty_at = asked_at

    def makefile(self, mode: str) -> io.BufferedReader:
        """What HTTPResponse reads from; mode is always "rb"."""
        assert mode == "rb"
        return io.BufferedReader(self, CHUNK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError where nothing comes for too long."""
        waits_since = self._clock()
        while True:
            count = self._receive(buffer, 0.0)
            if count is None:
                self._empty_at = self._clock()
                if self._empty_at - waits_since >= self.patience:
                    raise TimeoutError(f"not a word for {self.patience:g} s")
                count = self._receive(buffer, LOOK_UP)
            if count is not None:
                self.heard_at = self._empty_at
                return count

    def _receive(self, buffer: Any, timeout: float) -> int | None:
        """None where there is nothing."""
        self._socket.settimeout(timeout)
        try:
            return self._socket.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError, TimeoutError):
            return None

    def hang_up(self) -> None:
        """Ends the connection, whichever thread is waiting for it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        super().close()


class Stream:
    """The events of /watch, as a registry sends them."""

    def __init__(self, url: str, wire: Wire, response: HTTPResponse) -> None:
        self.url = url
        #: The index of the whole registry at which it begins, if that is told.
        self.index = int(index) if (index := response.headers.get("Registry-Index", "")).isdigit() else None
        self.wire = wire
        self._response = response
        self._is_over = False

    def read(self) -> bytes:
        """What has come, as soon as something has; nothing at the end. Raises RegistryUnreachable where the registry
        has gone without a word."""
        try:
            return self._response.read1(CHUNK)
        except (*NO_ANSWER, ValueError) as error:
            if self._is_over:
                return b""
            raise unreachable(self.url, error) from error

    def __iter__(self) -> Iterator[Event]:
        """Its events. Raises RegistryUnreachable, NotARegistry."""
        parser = Parser()
        while data := self.read():
            try:
                yield from parser.feed(data)
            except ValueError as error:
                raise no_events(self.url, error) from error

    def end(self) -> None:
        """Has it end. Any thread may: whoever waits for events gets no more."""
        self._is_over = True
        self.wire.hang_up()

    def close(self) -> None:
        """Closes the connection."""
        self._response.close()
        self.wire.close()
