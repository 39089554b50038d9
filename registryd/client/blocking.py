"""The blocking shell of the client: the same for programs without an event loop. Heartbeats and watches are sent and
read by daemon threads.

    from registryd.client.blocking import Discovery, registered

    with registered("users", "http://10.0.0.5:8000"), Discovery("timelines") as timelines:
        print(timelines.pick().base_url)

It needs the standard library alone, on any system. A process that is forked has none of the threads: begin after that.
"""

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self, Unpack
from weakref import WeakValueDictionary

from registryd.client.answers import NO_ANSWER, SILENCE, unreachable
from registryd.client.choices import Policy
from registryd.client.crew import Call, Crew
from registryd.client.discovery import LocalCopy
from registryd.client.errors import BadSetting, RegistrationRefused, RegistrydError, TokenRefused
from registryd.client.http import Client, Stream
from registryd.client.registries import Registries
from registryd.client.session import About, Session, new_dice

logger = logging.getLogger("registryd.client")


class Heartbeats:
    """The heartbeats of all registrations of one process with the same registries, in a thread of their own."""

    def __init__(self, registries: Registries, clock: Callable[[], float] = time.monotonic) -> None:
        self.crew = Crew(registries, new_dice())
        self._client = Client(registries)
        self._clock = clock
        #: Guards the crew, and wakes who waits for it.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        #: What is under way.
        self._call: Call | None = None

    def join(self, session: Session) -> None:
        """Sends heartbeats for a session from now on."""
        with self._changed:
            self.crew.join(session, self._clock())
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="registryd heartbeats", daemon=True)
                self._thread.start()

    def leave(self, session: Session) -> None:
        """Sends no more for it; what is under way is waited for."""
        with self._changed:
            self.crew.leave(session)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._call is None or session not in self._call.sessions)

    def first(self, session: Session) -> None:
        """Sends the first request for one that is to join. Raises RegistrationRefused, BadSetting."""
        with self._changed:
            call = self.crew.first_call(session)
        try:
            status, body = self._send(call)
        except NO_ANSWER as error:
            with self._changed:
                self.crew.failed(call, error, self._clock())
        else:
            with self._changed:
                self.crew.answered(call, status, body, self._clock())

    def farewell(self, session: Session) -> None:
        """Sends the last request for one that has left."""
        with self._changed:
            call = self.crew.farewell(session)
        try:
            outcome: int | BaseException = self._send(call)[0]
        except NO_ANSWER as error:
            outcome = error
        with self._changed:
            self.crew.took_leave(call, outcome)

    def _beat(self) -> None:
        while True:
            with self._changed:
                if not len(self.crew):
                    self._thread = None
                    return
                wait = self.crew.wait(self._clock())
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                self._call = call = self.crew.next_call(self._clock())
            self._talk(call)
            with self._changed:
                self._call = None
                self._changed.notify_all()

    def _talk(self, call: Call) -> None:
        try:
            status, body = self._send(call)
            with self._changed:
                self.crew.answered(call, status, body, self._clock())
        except RegistrationRefused as error:
            with self._changed:
                self.crew.refused(call, error)
        except NO_ANSWER as error:
            with self._changed:
                self.crew.failed(call, error, self._clock())
        except Exception:  # whatever it is, it must not end the heartbeats
            logger.exception("heartbeat failed instance=%s", call.sessions[0].instance_id)
            with self._changed:
                self.crew.put_off(call, self._clock())

    def _send(self, call: Call) -> tuple[int, bytes]:
        method, url, body = call.request
        return self._client.send(method, url, body if method == "POST" else None, timeout=call.timeout)


class Registration:
    """An instance that is kept registered until `stop`. Made by `register_service`."""

    def __init__(self, session: Session, heartbeats: Heartbeats) -> None:
        self._session = session
        self._heartbeats = heartbeats
        #: The process that sends the heartbeats: none of its children may end what is its own.
        self._pid = 0

    @property
    def instance_id(self) -> str:
        """The id of the instance, the same over its whole life."""
        return self._session.instance_id

    @property
    def is_registered(self) -> bool:
        """Whether the registry has confirmed it last time."""
        return self._heartbeats.crew.is_in(self._session)

    def start(self) -> None:
        """Registers and goes on to send heartbeats in the background. Where the registry cannot be reached it
        returns all the same, and the background keeps trying. Raises RegistrationRefused."""
        self._pid = os.getpid()
        try:
            self._heartbeats.first(self._session)
            self._heartbeats.join(self._session)
        except RegistrydError:
            self._pid = 0
            raise
        except BaseException:  # interrupted, as by an exit in a signal's handler: it may have arrived
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the heartbeats and deregisters. Never fails: where the registry cannot be reached, the lease ends."""
        if self._pid == os.getpid():
            self._pid = 0
            self._heartbeats.leave(self._session)
            if self._session.may_be_listed:
                self._heartbeats.farewell(self._session)


_current: list[Registration] = []
#: The heartbeats that go on, by process and registries.
_heartbeats: WeakValueDictionary[tuple[object, ...], Heartbeats] = WeakValueDictionary()
_starting = threading.Lock()


def register_service(service_name: str, base_url: str, **about: Unpack[About]) -> Registration:
    """Registers this program as an instance of `service_name` that is reached at `base_url`, and keeps it registered:
    see `registryd.client.register_service`. It is taken off the list again by `deregister_service`, and where the
    interpreter ends in order."""
    registration = _make(service_name, base_url, about)
    if not _current:
        atexit.register(deregister_service)
    _current.append(registration)
    try:
        registration.start()
    except BaseException:
        _current.remove(registration)
        raise
    return registration


def deregister_service() -> None:
    """Takes everything that `register_service` has registered off the list again. Never fails."""
    atexit.unregister(deregister_service)
    while _current:
        _current.pop().stop()


@contextlib.contextmanager
def registered(service_name: str, base_url: str, **about: Unpack[About]) -> Iterator[Registration]:
    """Is registered as long as the block of its `with` lasts: see `register_service`."""
    registration = _make(service_name, base_url, about)
    try:
        registration.start()
        yield registration
    finally:
        registration.stop()


def _make(service_name: str, base_url: str, about: About) -> Registration:
    registries = Registries.of(os.environ)
    with _starting:
        key = (os.getpid(), registries.identity)
        heartbeats = _heartbeats.get(key)
        if heartbeats is None:
            heartbeats = _heartbeats[key] = Heartbeats(registries)
    instance = {"service_name": service_name, "base_url": base_url, **about}
    return Registration(Session(heartbeats.crew.registries, instance, new_dice()), heartbeats)


class Discovery(LocalCopy):
    """The instances of a service, and the choice among them, from a local copy that is kept fresh in the background:

        with Discovery("users") as users:
            instance = users.pick()

    Any thread may look up. Else it is as `registryd.client.Discovery`."""

    def __init__(
        self,
        service_name: str,
        *,
        policy: Policy = "round_robin",
        zone: str = "",
        registries: Registries | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(service_name, policy, zone, clock, new_dice())
        self._client = Client(registries)
        self._stopping = threading.Event()
        self._tried = threading.Event()
        #: Why it does not go on.
        self._refusal: RegistrydError | None = None
        self._stream: Stream | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begins to watch, and waits for the first answer: where no registry can be reached it returns all the same,
        after three seconds for each at most, and the background keeps trying. Raises TokenRefused, BadSetting."""
        self._stopping.clear()
        self._tried.clear()
        self._refusal = None
        name = f"registryd discovery {self.service_name}"
        self._thread = threading.Thread(target=self._follow, name=name, daemon=True)
        self._thread.start()
        try:
            self._tried.wait()
        except BaseException:  # interrupted, as by an exit in a signal's handler
            self.stop()
            raise
        if self._refusal is not None:
            raise self._refusal

    def stop(self) -> None:
        """Ends the watch. What is known stays, and grows old."""
        self._stopping.set()
        stream = self._stream
        if stream is not None:
            stream.end()
        if self._thread is not None:
            self._thread.join()

    def _follow(self) -> None:
        tries = 0
        while not self._stopping.is_set():
            url, trouble = self._client.registries.url, None
            try:
                self._watch(url)
            except RegistrydError as error:
                trouble = error
            except Exception as error:  # whatever it is, it must not end the watch
                logger.exception("watch failed service=%s", self.service_name)
                trouble = unreachable(url, error)
            tries += 1
            if not self._tried.is_set() and isinstance(trouble, TokenRefused | BadSetting):
                self._refusal = trouble
                self._tried.set()
                return
            if self.ended(trouble):
                self._client.registries.leave(url)
            if tries >= len(self._client.registries):
                self._tried.set()
            self._stopping.wait(self.wait)

    def _watch(self, url: str) -> None:
        """One stream, until it ends. Raises RegistryUnreachable, Refused, BadSetting."""
        stream = self._client.open([self.service_name], self.resume_from(url), silence=SILENCE, clock=self._clock)
        with contextlib.closing(stream):
            self._stream = stream
            self.opened(url, stream.wire.asked_at, stream.index)
            while not self._stopping.is_set() and (data := stream.read()):
                self.feed(data, stream.wire.heard_at)
                if self.is_known:
                    self._tried.set()
            self._stream = None
