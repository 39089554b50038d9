"""Takes connections in, and lets them go."""

import asyncio
import contextlib
import ssl
import traceback
from collections.abc import Callable
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from typing import Any, NamedTuple

from registryd.front.connection import Bounds, Connection, Shared
from registryd.front.exchange import Peer
from registryd.overload import NOWHERE

#: Seconds that a client gets to show that it speaks TLS.
HANDSHAKE = 10.0
#: And to take the last of what was written and to say goodbye when we do. Most never do, so at a stop it is less.
FAREWELL = 10.0
LAST_FAREWELL = 1.0


class Arriving(NamedTuple):
    """A connection whose transport is being made."""

    socket: socket
    future: "asyncio.Future[object]"

    def hang_up(self) -> None:
        """Ends it. To cancel what makes it would leave uvloop with half a transport, which never ends."""
        with contextlib.suppress(OSError):  # the other side has been first
            self.socket.shutdown(SHUT_RDWR)


def _forget_stack(error: BaseException | None) -> None:
    """Lets go of what the stack of an error still knows, and of what led to it: a quarter of a megabyte of TLS, which
    knows the error, so that both would wait for the garbage collector."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


class FrontServer:
    """The front, as the daemon uses it. Listens to nothing by itself: `take` is for whoever accepts."""

    def __init__(self, shared: Shared, *, tls: ssl.SSLContext | None = None) -> None:
        self._shared = shared
        self._tls = tls
        #: Those whose transport is being made, which takes a while with TLS.
        self._arriving: dict[Connection, Arriving] = {}

    def __len__(self) -> int:
        return len(self._shared.connections) + len(self._shared.arriving) - len(self._shared.leaving)

    def take(self, connection: socket, address: Any) -> None:
        """Serves an accepted connection, which may be of TCP or a Unix socket."""
        is_ip = connection.family in (AF_INET, AF_INET6)
        peer = Peer(address[0] if is_ip else NOWHERE, "https" if self._tls else "http")
        served = Connection(self._shared, peer)
        for victim in self._shared.overload.crowd.arrive(peer.remote_ip, served, Connection.is_quiet):
            self._make_room(victim)
        made = self._shared.loop.connect_accepted_socket(
            lambda: served,
            connection,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE if self._tls else None,
            ssl_shutdown_timeout=FAREWELL if self._tls else None,
        )
        arriving: asyncio.Future[object] = asyncio.ensure_future(made)
        self._arriving[served] = Arriving(connection, arriving)
        self._shared.arriving.add(served)
        arriving.add_done_callback(lambda arriving: self._arrived(served, arriving))

    def _arrived(self, served: Connection, arriving: "asyncio.Future[object]") -> None:
        del self._arriving[served]
        error = None if arriving.cancelled() else arriving.exception()
        if error is not None or arriving.cancelled():  # it has gone again, or does not speak TLS
            served.has_not_come()
        _forget_stack(error)

    def _make_room(self, victim: Connection) -> None:
        self._shared.leaving.add(victim)
        if victim in self._shared.arriving:
            self._shared.overload.lose()
            self._arriving[victim].hang_up()
        else:
            victim.make_room()

    def take_tls(self, tls: ssl.SSLContext | None) -> None:
        """Serves connections that come from now on so."""
        self._tls = tls

    def take_limits(self, limits: Bounds) -> None:
        """Takes requests within these bounds from now on."""
        self._shared.take_bounds(limits)

    def wind_down(self, *, at_once: bool = False) -> None:
        """Closes each connection after its next answer, which says so; `at_once`, even where more has been asked."""
        self._shared.wind_down(at_once=at_once)

    def idle(self) -> list[Connection]:
        """The connections that could go on without us: each has a `fileno`, and can be `let_go`."""
        return [connection for connection in self._shared.connections if connection.is_idle]

    def tell_idle(self, take: Callable[[Connection], bool] | None) -> None:
        """Has someone take each connection as soon as it is idle, who says whether he has; None: nobody any more."""
        self._shared.on_idle = take
        if take is None:
            for connection in list(self._shared.connections):
                connection.go_on()

    async def empty(self) -> None:
        """Waits until no connection is left."""
        if self._arriving:
            await asyncio.wait([one.future for one in self._arriving.values()])
        await self._shared.empty.wait()

    async def close(self, seconds: float) -> int:
        """Closes all connections as soon as what was written to them is sent, but at the latest after so many seconds.
        Gives back how many were cut off."""
        for arriving in self._arriving.values():
            arriving.hang_up()
        for connection in list(self._shared.connections):
            connection.close()
        if await self._emptied(min(seconds, LAST_FAREWELL)):
            return 0
        for connection in list(self._shared.connections):
            if connection.has_sent_all():
                connection.abort()
        if await self._emptied(seconds - LAST_FAREWELL):
            return 0
        cut = len(self._shared.connections)
        for connection in list(self._shared.connections):
            connection.abort()
        await self._shared.empty.wait()
        return cut

    async def _emptied(self, seconds: float) -> bool:
        """Waits until no connection is left, but not for longer than that; gives back whether there is none."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._shared.empty.wait(), max(0.0, seconds))
        return self._shared.empty.is_set()
