"""The asyncio shell of the client: sends what the session says, and waits as long as it says, in a task of its own."""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from registryd.client.session import Phase, RegistrationRefused, Request, Session

logger = logging.getLogger("registryd.client")

DEFAULT_URL = "http://localhost:8006"
#: Seconds that an answer may take: a registry answers in milliseconds or not at all.
TIMEOUT = 3.0
#: How Tornado's client says that there was no answer: the connection's error, its own, or that the URL is none.
_NO_ANSWER = (HTTPClientError, OSError, ValueError)

#: What `register_service` has registered.
_current: list["Registration"] = []


class Registration:
    """An instance that is kept registered until `stop`. Made by `register_service`."""

    def __init__(self, session: Session, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._session = session
        self._sleep = sleep
        self._http = AsyncHTTPClient(force_instance=True)
        self._task: asyncio.Task[None] | None = None
        self._is_troubled = False

    @property
    def instance_id(self) -> str:
        """The id of the instance, the same over its whole life."""
        return self._session.instance_id

    @property
    def is_registered(self) -> bool:
        """Whether the registry has confirmed it last time."""
        return self._session.phase is Phase.IN and not self._is_troubled

    async def start(self) -> None:
        """Registers and goes on to send heartbeats in the background. Where the registry cannot be reached it
        returns all the same, and the background keeps trying. Raises RegistrationRefused."""
        try:
            await self._talk()
        except BaseException:
            self._http.close()
            raise
        self._task = asyncio.create_task(self._keep_registered(), name=f"registryd heartbeat {self.instance_id}")

    async def stop(self) -> None:
        """Stops the heartbeats and deregisters. Never fails: where the registry cannot be reached, the lease ends."""
        if self._task is None:
            return
        task, self._task = self._task, None
        # It has ended where the id was taken over, or where an event loop has ended under it: no one to say goodbye.
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._say_goodbye()
        self._http.close()

    async def _say_goodbye(self) -> None:
        try:
            await self._send(self._session.farewell())
        except _NO_ANSWER as error:
            logger.warning("could not deregister instance=%s: %s; its lease will end", self.instance_id, error)

    async def _keep_registered(self) -> None:
        while self._session.phase is not Phase.TAKEN_OVER:
            await self._sleep(self._session.wait)
            try:
                await self._talk()
            except RegistrationRefused as error:
                self._say_once("%s", error)
            except Exception:  # whatever it is, it must not end the heartbeats
                logger.exception("heartbeat failed instance=%s", self.instance_id)
                self._session.failed()
        logger.warning("another process has taken over instance=%s: no more heartbeats", self.instance_id)

    async def _talk(self) -> None:
        """Sends the next request and takes its answer. Raises RegistrationRefused."""
        session, url, phase = self._session, self._session.url, self._session.phase
        request = session.next_request()
        try:
            status, body = await self._send(request)
        except _NO_ANSWER as error:
            session.failed()
            self._say_once("no answer from the registry at %s: %s; trying again", url, error)
            return
        if not session.answered(status, body):
            self._say_once("the registry at %s answers %s with %d; trying again", url, request.url, status)
            return
        if session.phase is Phase.OUT:
            logger.info("the registry at %s has forgotten instance=%s; registering again", url, self.instance_id)
        elif phase is Phase.OUT or self._is_troubled:
            logger.info("registered instance=%s at %s", self.instance_id, url)
        self._is_troubled = False

    async def _send(self, request: Request) -> tuple[int, bytes]:
        response = await self._http.fetch(
            request.url,
            method=request.method,
            body=request.body if request.method == "POST" else None,
            headers={"Content-Type": "application/json"},
            connect_timeout=TIMEOUT,
            request_timeout=TIMEOUT,
            follow_redirects=False,
            raise_error=False,
        )
        return response.code, response.body

    def _say_once(self, message: str, *args: object) -> None:
        """Warns when trouble begins, and keeps quiet until it is over."""
        logger.log(logging.DEBUG if self._is_troubled else logging.WARNING, message, *args)
        self._is_troubled = True


async def register_service(
    service_name: str,
    base_url: str,
    *,
    instance_id: str | None = None,
    ttl: float | None = None,
    status: str | None = None,
    metadata: Mapping[str, str] | None = None,
    tags: Sequence[str] | None = None,
    version: str | None = None,
    zone: str | None = None,
    weight: int | None = None,
) -> Registration:
    """Registers this program as an instance of `service_name` that is reached at `base_url`, and keeps it registered.

    Heartbeats go out in the background, every third of the lease. When the registry has forgotten the instance it is
    registered again, under the same id. A registry that is down is waited for in the background, so this returns in
    seconds at the most. The registry is at REGISTRY_URL (several, separated by commas, are tried in turn).

    Raises RegistrationRefused where the registry says that the registration itself is wrong (a bad name, say).
    """
    instance = {
        "service_name": service_name,
        "base_url": base_url,
        "instance_id": instance_id,
        "ttl": ttl,
        "status": status,
        "metadata": None if metadata is None else dict(metadata),
        "tags": None if tags is None else list(tags),
        "version": version,
        "zone": zone,
        "weight": weight,
    }
    registration = Registration(Session(registry_urls(os.environ), instance, random.Random()))  # noqa: S311 - jitter
    await registration.start()
    _current.append(registration)
    return registration


async def deregister_service() -> None:
    """Takes everything that `register_service` has registered off the list again. Never fails."""
    while _current:
        await _current.pop().stop()


def registry_urls(environ: Mapping[str, Any]) -> list[str]:
    """The registries that REGISTRY_URL names; the default where it names none."""
    urls = [url.strip() for url in str(environ.get("REGISTRY_URL", "")).split(",")]
    return [url for url in urls if url] or [DEFAULT_URL]
