"""The two shells of the client, so that one test can be about both: what a test does is the same, in an event loop of
another thread or in this one."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, Self, Unpack

from process import DEADLINE

from registryd.client import aio, blocking
from registryd.client.choices import Policy
from registryd.client.discovery import LocalCopy
from registryd.client.session import About


class Registered(Protocol):
    """A registration."""

    @property
    def instance_id(self) -> str: ...
    @property
    def is_registered(self) -> bool: ...


class Shell(Protocol):
    """What both have."""

    def registered(
        self, service_name: str, base_url: str, **about: Unpack[About]
    ) -> AbstractContextManager[Registered]: ...
    def discovery(
        self, service_name: str, policy: Policy = "round_robin", zone: str = ""
    ) -> AbstractContextManager[LocalCopy]: ...


class Blocking:
    """registryd.client.blocking"""

    def registered(
        self, service_name: str, base_url: str, **about: Unpack[About]
    ) -> AbstractContextManager[Registered]:
        return blocking.registered(service_name, base_url, **about)

    def discovery(
        self, service_name: str, policy: Policy = "round_robin", zone: str = ""
    ) -> AbstractContextManager[LocalCopy]:
        return blocking.Discovery(service_name, policy=policy, zone=zone)


class Asyncio:
    """registryd.client, in an event loop of its own thread: `with Asyncio() as shell:`"""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        left = self._run(self._left())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not left, "nothing goes on after the end"

    async def _left(self) -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("registryd")]

    def _run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(DEADLINE)

    @contextmanager
    def registered(self, service_name: str, base_url: str, **about: Unpack[About]) -> Iterator[Registered]:
        block = aio.registered(service_name, base_url, **about)
        registration: aio.Registration = self._run(block.__aenter__())
        try:
            yield registration
        finally:
            self._run(block.__aexit__(None, None, None))

    @contextmanager
    def discovery(self, service_name: str, policy: Policy = "round_robin", zone: str = "") -> Iterator[LocalCopy]:
        async def start() -> aio.Discovery:
            return await aio.Discovery(service_name, policy=policy, zone=zone).__aenter__()

        discovery: aio.Discovery = self._run(start())
        try:
            yield discovery
        finally:
            self._run(discovery.stop())


def until(holds: Callable[[], object], within: float = DEADLINE) -> None:
    """Waits until something holds, and fails where it does not within the deadline."""
    never, end = threading.Event(), time.monotonic() + within
    while not holds():
        assert time.monotonic() < end, "it never does"
        never.wait(0.01)
