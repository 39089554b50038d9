"""The asyncio shell of the client: sends what the core says, and waits as long as it says, in tasks of its own.

A task does everything for a registration, from the first request to the farewell, so that whoever waits for it may be
cancelled at any time without anything being left half done.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self, Unpack
from urllib.parse import urlencode
from weakref import WeakValueDictionary

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient
from tornado.util import TimeoutError as TornadoTimeout

from registryd.client.answers import NO_ANSWER, SILENCE, TIMEOUT, no_events, parsed, split, target_of, unreachable
from registryd.client.choices import Policy
from registryd.client.crew import Call, Crew
from registryd.client.discovery import LocalCopy
from registryd.client.errors import BadSetting, RegistrationRefused, RegistrydError, TokenRefused
from registryd.client.registries import Registries
from registryd.client.session import About, Session, new_dice

logger = logging.getLogger("registryd.client")

#: How Tornado's client says that there was no answer: the connection's error, its own, or that the URL is none.
_NO_ANSWER = (HTTPClientError, OSError, ValueError)
#: Seconds after which a watched stream is looked at, whether or not something has come.
LOOK_UP = 0.5
#: Bytes of a refusal that are read.
MOST_REFUSAL = 64 * 1024

Sleep = Callable[[float], Awaitable[object]]


class Heartbeats:
    """The heartbeats of all registrations of one event loop with the same registries, in a task of their own."""

    def __init__(
        self, registries: Registries, sleep: Sleep = asyncio.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.crew = Crew(registries, new_dice())
        self._sleep = sleep
        self._clock = clock
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        #: What is under way.
        self._call: Call | None = None
        #: For those who leave: a call is over, the task has ended, or someone has joined.
        self._went_on = asyncio.Event()

    def join(self, session: Session) -> None:
        """Sends heartbeats for a session from now on."""
        self.crew.join(session, self._clock())
        self._changed.set()
        if not self._is_beating():
            self._task = asyncio.create_task(self._beat(), name="registryd heartbeats")
        self._go_on()

    async def leave(self, session: Session) -> None:
        """Sends no more for it; what is under way is waited for."""
        self.crew.leave(session)
        self._changed.set()
        while self._call is not None and session in self._call.sessions:
            await self._went_on.wait()
        while not len(self.crew) and self._is_beating():  # as long as nobody joins, for whom it goes on
            await self._went_on.wait()

    def _is_beating(self) -> bool:
        return self._task is not None and not self._task.done()

    def _go_on(self) -> None:
        self._went_on.set()
        self._went_on.clear()

    async def first(self, http: AsyncHTTPClient, session: Session) -> None:
        """Sends the first request for one that is to join. Raises RegistrationRefused, BadSetting."""
        call = self.crew.first_call(session)
        try:
            status, body = await self._send(http, call)
        except _NO_ANSWER as error:
            self.crew.failed(call, error, self._clock())
        else:
            self.crew.answered(call, status, body, self._clock())

    async def farewell(self, http: AsyncHTTPClient, session: Session) -> None:
        """Sends the last request for one that has left."""
        call = self.crew.farewell(session)
        try:
            outcome: int | BaseException = (await self._send(http, call))[0]
        except _NO_ANSWER as error:
            outcome = error
        self.crew.took_leave(call, outcome)

    async def _beat(self) -> None:
        http = AsyncHTTPClient(force_instance=True)
        try:
            while len(self.crew):
                self._changed.clear()
                wait = self.crew.wait(self._clock())
                if wait > 0:
                    await self._wait_for_change(wait)
                    continue
                self._call = self.crew.next_call(self._clock())
                await self._talk(http, self._call)
                self._call = None
                self._go_on()
        finally:
            http.close()
            self._task = None
            self._go_on()

    async def _talk(self, http: AsyncHTTPClient, call: Call) -> None:
        try:
            status, body = await self._send(http, call)
            self.crew.answered(call, status, body, self._clock())
        except RegistrationRefused as error:
            self.crew.refused(call, error)
        except _NO_ANSWER as error:
            self.crew.failed(call, error, self._clock())
        except Exception:  # whatever it is, it must not end the heartbeats
            logger.exception("heartbeat failed instance=%s", call.sessions[0].instance_id)
            self.crew.put_off(call, self._clock())

    async def _wait_for_change(self, seconds: float) -> None:
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        changing = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({sleeping, changing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            changing.cancel()

    async def _send(self, http: AsyncHTTPClient, call: Call) -> tuple[int, bytes]:
        registries, request = self.crew.registries, call.request
        fetching = http.fetch(
            request.url,
            method=request.method,
            body=request.body if request.method == "POST" else None,
            headers={"Content-Type": "application/json"} | registries.headers_for(request.url),
            connect_timeout=call.timeout,
            request_timeout=call.timeout,
            follow_redirects=False,
            raise_error=False,
            ssl_options=registries.tls if request.url.startswith("https:") else None,
        )
        # Should an event loop end under us, Tornado must not find its future cancelled, nor nobody to hear its error.
        fetching.add_done_callback(lambda future: future.cancelled() or future.exception())
        response = await asyncio.shield(fetching)
        return response.code, response.body


class Registration:
    """An instance that is kept registered until `stop`. Made by `register_service`, in its event loop."""

    def __init__(self, session: Session, heartbeats: Heartbeats) -> None:
        self.loop = asyncio.get_running_loop()
        self._session = session
        self._heartbeats = heartbeats
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def instance_id(self) -> str:
        """The id of the instance, the same over its whole life."""
        return self._session.instance_id

    @property
    def is_registered(self) -> bool:
        """Whether the registry has confirmed it last time."""
        return self._heartbeats.crew.is_in(self._session)

    async def start(self) -> None:
        """Registers and goes on to send heartbeats in the background. Where the registry cannot be reached it
        returns all the same, and the background keeps trying. Raises RegistrationRefused."""
        first_try: asyncio.Future[None] = self.loop.create_future()
        name = f"registryd registration {self.instance_id}"
        self._task = asyncio.create_task(self._keep_registered(first_try), name=name)
        try:
            await asyncio.shield(first_try)
        except asyncio.CancelledError:
            self._stopping.set()  # the task ends by itself, and takes back what it has sent
            raise

    async def stop(self) -> None:
        """Stops the heartbeats and deregisters. Never fails: where the registry cannot be reached, the lease ends."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _keep_registered(self, first_try: asyncio.Future[None]) -> None:
        http = AsyncHTTPClient(force_instance=True)
        try:
            try:
                await self._heartbeats.first(http, self._session)
                first_try.set_result(None)
            except RegistrydError as error:
                first_try.set_exception(error)
                return
            self._heartbeats.join(self._session)
            await self._stopping.wait()
            await self._heartbeats.leave(self._session)
            if self._session.may_be_listed:
                await self._heartbeats.farewell(http, self._session)
        finally:
            if not first_try.done():
                first_try.cancel()
            http.close()


_current: list[Registration] = []
#: The heartbeats that go on, by event loop and registries.
_heartbeats: WeakValueDictionary[tuple[object, ...], Heartbeats] = WeakValueDictionary()


async def register_service(service_name: str, base_url: str, **about: Unpack[About]) -> Registration:
    """Registers this program as an instance of `service_name` that is reached at `base_url`, and keeps it registered.

    Heartbeats go out in the background, every third of the lease, one for all that this program registers. When the
    registry has forgotten the instance it is registered again, under the same id. A registry that is down is waited for
    in the background, so this returns in seconds at the most. The registry is at REGISTRY_URL (several, separated by
    commas, are tried in turn), and is shown the token REGISTRY_TOKEN, if there is one.

    Raises RegistrationRefused where the registry says that the registration itself is wrong (a bad name, say), or that
    the token does not allow it (then it is a TokenRefused too); BadSetting where the environment cannot be used.
    """
    registration = _make(service_name, base_url, about)
    await registration.start()
    _current.append(registration)
    return registration


async def deregister_service() -> None:
    """Takes everything that `register_service` has registered in this event loop off the list again. Never fails."""
    loop = asyncio.get_running_loop()
    ours = [registration for registration in _current if registration.loop is loop]
    # A loop that has ended took its heartbeats with it.
    _current[:] = [other for other in _current if other.loop is not loop and not other.loop.is_closed()]
    await asyncio.gather(*(registration.stop() for registration in ours))


@asynccontextmanager
async def registered(service_name: str, base_url: str, **about: Unpack[About]) -> AsyncIterator[Registration]:
    """Is registered as long as the block of its `async with` lasts: see `register_service`."""
    registration = _make(service_name, base_url, about)
    try:
        await registration.start()
        yield registration
    finally:
        await registration.stop()


def lifespan(
    service_name: str, base_url: str, **about: Unpack[About]
) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """The lifespan of a Starlette or FastAPI app that is registered as long as it runs:
    `FastAPI(lifespan=lifespan("users", url))`."""

    @asynccontextmanager
    async def run(_app: object) -> AsyncIterator[None]:
        async with registered(service_name, base_url, **about):
            yield

    return run


def _make(service_name: str, base_url: str, about: About) -> Registration:
    registries = Registries.of(os.environ)
    key = (asyncio.get_running_loop(), registries.identity)
    heartbeats = _heartbeats.get(key)
    if heartbeats is None:
        heartbeats = _heartbeats[key] = Heartbeats(registries)
    instance = {"service_name": service_name, "base_url": base_url, **about}
    session = Session(heartbeats.crew.registries, instance, new_dice())
    return Registration(session, heartbeats)


class Discovery(LocalCopy):
    """The instances of a service, and the choice among them, from a local copy that is kept fresh in the background:

        async with Discovery("users") as users:
            instance = users.pick()

    `policy` is "round_robin", "weighted_random" or "least_pending"; `zone` is ours, whose instances are taken as long
    as there are any. The registries are those of the environment, as for `register_service`."""

    def __init__(
        self,
        service_name: str,
        *,
        policy: Policy = "round_robin",
        zone: str = "",
        registries: Registries | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__(service_name, policy, zone, clock, new_dice())
        self._registries = registries or Registries.of(os.environ)
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begins to watch, and waits for the first answer: where no registry can be reached it returns all the same,
        after three seconds for each at most, and the background keeps trying. Raises TokenRefused, BadSetting."""
        first_try: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._follow(first_try), name=f"registryd discovery {self.service_name}")
        try:
            await first_try
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends the watch. What is known stays, and grows old."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self.ended()

    async def _follow(self, first_try: asyncio.Future[None]) -> None:
        tries = 0
        while True:
            url, trouble = self._registries.url, None
            try:
                await Watch(self, self._registries, self._clock, first_try).run()
            except RegistrydError as error:
                trouble = error
            except Exception as error:  # whatever it is, it must not end the watch
                logger.exception("watch failed service=%s", self.service_name)
                trouble = unreachable(url, error)
            tries += 1
            if not first_try.done():
                if isinstance(trouble, TokenRefused | BadSetting):
                    first_try.set_exception(trouble)
                    return
                if tries >= len(self._registries):
                    first_try.set_result(None)
            if self.ended(trouble):
                self._registries.leave(url)
            await self._sleep(self.wait)


class Watch(HTTPMessageDelegate):
    """One stream of events, on a connection of its own that can be closed at any moment."""

    def __init__(
        self,
        copy: LocalCopy,
        registries: Registries,
        clock: Callable[[], float],
        first_try: asyncio.Future[None],
    ) -> None:
        self._copy = copy
        self._registries = registries
        self._url = registries.url
        self._clock = clock
        self._first_try = first_try
        self._asked_at = self._read_at = clock()
        #: Two moments at which the loop has come by here: whatever is read now had not come at the earlier one, however
        #: long the process was stopped since.
        self._looked_up = (self._asked_at, self._asked_at)
        #: Status, kind and body of an answer that is no stream.
        self._other: tuple[int, str, bytearray] | None = None
        self._is_finished = False
        self._trouble: RegistrydError | None = None

    async def run(self) -> None:
        """Feeds the copy until the stream ends. Raises RegistryUnreachable, Refused, BadSetting."""
        try:
            self._stream = await self._connect()
            try:
                await self._read()
            finally:
                self._stream.close()
        except (*NO_ANSWER, StreamClosedError, TornadoTimeout) as error:
            raise unreachable(self._url, getattr(error, "real_error", None) or error) from error
        if self._trouble is not None:
            raise self._trouble
        if self._other is not None:
            status, kind, body = self._other
            parsed(self._url, status, bytes(body))
            raise no_events(self._url, f"it is {kind}")
        if not self._is_finished:
            raise unreachable(self._url, ConnectionError("the connection was lost"))

    async def _connect(self) -> IOStream:
        parts = split(self._url)
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        tls = self._registries.tls if is_tls else None
        return await TCPClient().connect(parts.hostname or "", port, ssl_options=tls, timeout=TIMEOUT)

    async def _read(self) -> None:
        service, last_index = self._copy.service_name, self._copy.resume_from(self._url)
        parts = split(f"{self._url}/watch?{urlencode({'service': service})}")
        headers = {"Host": parts.netloc.rpartition("@")[2], "Connection": "close"} | self._registries.headers_for(
            self._url
        )
        if last_index is not None:
            headers["Last-Event-ID"] = str(last_index)
        params = HTTP1ConnectionParameters(no_keep_alive=True, max_body_size=2**62)
        connection = HTTP1Connection(self._stream, is_client=True, params=params)
        await connection.write_headers(RequestStartLine("GET", target_of(parts), ""), HTTPHeaders(headers))
        connection.finish()
        reading = asyncio.ensure_future(connection.read_response(self))
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=LOOK_UP)
                now = self._clock()
                self._looked_up = (self._looked_up[1], now)
                patience = SILENCE if self._copy.is_open else TIMEOUT
                if now - self._read_at >= patience and self._trouble is None:
                    self._give_up(unreachable(self._url, TimeoutError(f"not a word for {patience:g} s")))
        finally:
            self._stream.close()
            await asyncio.wait({reading})
            error = reading.exception()
        if error is not None and self._trouble is None:
            raise error

    def _give_up(self, trouble: RegistrydError) -> None:
        self._trouble = trouble
        self._stream.close()

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """Part of Tornado's interface, as all that follows."""
        assert isinstance(start_line, ResponseStartLine)
        kind = headers.get("Content-Type", "").partition(";")[0].strip()
        self._read_at = self._clock()
        if start_line.code != 200 or kind != "text/event-stream":
            self._other = start_line.code, kind, bytearray()
            return
        index = headers.get("Registry-Index", "")
        self._copy.opened(self._url, self._asked_at, int(index) if index.isdigit() else None)

    def data_received(self, chunk: bytes) -> None:
        self._read_at = self._clock()
        if self._other is not None:
            body = self._other[2]
            body += chunk
            if len(body) > MOST_REFUSAL:
                self._give_up(no_events(self._url, f"it is {self._other[1]}"))
            return
        try:
            self._copy.feed(chunk, self._looked_up[0])
        except RegistrydError as error:
            self._give_up(error)
        if self._copy.is_known and not self._first_try.done():
            self._first_try.set_result(None)

    def finish(self) -> None:
        self._is_finished = True
