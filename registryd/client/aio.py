"""The asyncio shell of the client: sends what the session says, and waits as long as it says, in a task of its own.

The task does everything, from the first request to the farewell, so that whoever waits for it may be cancelled at any
time without anything being left half done.
"""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from registryd.client.errors import RegistrationRefused
from registryd.client.registries import registry_urls, without_secret
from registryd.client.session import Phase, Request, Session

logger = logging.getLogger("registryd.client")

#: How Tornado's client says that there was no answer: the connection's error, its own, or that the URL is none.
_NO_ANSWER = (HTTPClientError, OSError, ValueError)
#: Statuses of a farewell after which there is nothing left of us: done, forgotten, or taken over.
_GONE = {200, 404, 409}

_current: list["Registration"] = []


class Registration:
    """An instance that is kept registered until `stop`. Made by `register_service`, in its event loop."""

    def __init__(
        self, session: Session, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep, token: str = ""
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._session = session
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._sleep = sleep
        self._stopping = asyncio.Event()
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
        first_try: asyncio.Future[None] = self.loop.create_future()
        name = f"registryd heartbeat {self.instance_id}"
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
                await self._talk(http)
                first_try.set_result(None)
            except RegistrationRefused as error:
                first_try.set_exception(error)
                return
            await self._send_heartbeats(http)
            if self._session.phase is not Phase.TAKEN_OVER:
                await self._say_goodbye(http)
        finally:
            if not first_try.done():
                first_try.cancel()
            http.close()

    async def _send_heartbeats(self, http: AsyncHTTPClient) -> None:
        while not await self._is_stopping_within(self._session.wait):
            try:
                await self._talk(http)
            except RegistrationRefused as error:
                self._say_once("%s", error)
            except Exception:  # whatever it is, it must not end the heartbeats
                logger.exception("heartbeat failed instance=%s", self.instance_id)
                self._session.failed()
            if self._session.phase is Phase.TAKEN_OVER:
                logger.warning("another process has taken over instance=%s: no more heartbeats", self.instance_id)
                return

    async def _is_stopping_within(self, seconds: float) -> bool:
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopping.cancel()
        return self._stopping.is_set()

    async def _talk(self, http: AsyncHTTPClient) -> None:
        """Sends the next request and takes its answer. Raises RegistrationRefused."""
        session, url, phase = self._session, without_secret(self._session.url), self._session.phase
        request = session.next_request()
        try:
            status, body = await self._send(http, request)
        except _NO_ANSWER as error:
            session.failed()
            self._say_once("no answer from the registry at %s: %s; trying again", url, error)
            return
        if not session.answered(status, body):
            what = f"{request.method} {request.url.removeprefix(session.url)}"
            self._say_once("the registry at %s answers %d to %s; trying again", url, status, without_secret(what))
            return
        if session.phase is Phase.OUT:
            logger.info("the registry at %s has forgotten instance=%s; registering again", url, self.instance_id)
        elif session.phase is Phase.IN and (phase is Phase.OUT or self._is_troubled):
            logger.info("registered instance=%s at %s", self.instance_id, url)
        self._is_troubled = False

    async def _say_goodbye(self, http: AsyncHTTPClient) -> None:
        try:
            status, _ = await self._send(http, self._session.farewell())
            trouble = "" if status in _GONE else f"the registry answers {status}"
        except _NO_ANSWER as error:
            trouble = str(error)
        if trouble and self._session.was_in:
            logger.warning("could not deregister instance=%s: %s; its lease will end", self.instance_id, trouble)

    async def _send(self, http: AsyncHTTPClient, request: Request) -> tuple[int, bytes]:
        fetching = http.fetch(
            request.url,
            method=request.method,
            body=request.body if request.method == "POST" else None,
            headers=self._headers,
            connect_timeout=self._session.timeout,
            request_timeout=self._session.timeout,
            follow_redirects=False,
            raise_error=False,
        )
        # Should an event loop end under us, Tornado must not find its future cancelled, nor nobody to hear its error.
        fetching.add_done_callback(lambda future: future.cancelled() or future.exception())
        response = await asyncio.shield(fetching)
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
    seconds at the most. The registry is at REGISTRY_URL (several, separated by commas, are tried in turn), and is shown
    the token REGISTRY_TOKEN, if there is one.

    Raises RegistrationRefused where the registry says that the registration itself is wrong (a bad name, say), or that
    the token does not allow it.
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
    session = Session(registry_urls(os.environ), instance, random.Random())  # noqa: S311 - jitter
    registration = Registration(session, token=os.environ.get("REGISTRY_TOKEN", "").strip())
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
