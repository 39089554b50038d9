"""A whole registry behind an HTTP server of either kind, and a transport in memory for the front."""

import asyncio
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from raw import Served, Wire
from support import FIRST_INDEX, ManualClock, RecordingStore, new_state

from registryd.api.context import Context, Daemon, UnderWay
from registryd.api.hosts import Hosts
from registryd.api.reader import Reader
from registryd.api.watch import Broadcast
from registryd.auth import Access
from registryd.core.limits import Limits
from registryd.feed import Feed
from registryd.front.connection import Connection, Shared
from registryd.front.exchange import Peer
from registryd.front.server import FrontServer
from registryd.listeners import listen
from registryd.overload import Overload
from registryd.registry import Registry
from registryd.server import HttpServer, make_application, make_http_server
from registryd.traffic import Traffic

LIMITS = Limits(body_bytes=1000, header_bytes=500, url_bytes=200)


class World(NamedTuple):
    """One registry, always the same at the start, and its server."""

    registry: Registry
    store: RecordingStore
    under_way: UnderWay
    http: HttpServer
    served: Served
    reader: Reader
    traffic: Traffic

    @property
    def shared(self) -> Shared:
        assert isinstance(self.http, FrontServer)
        return self.http._shared


@asynccontextmanager
async def world(kind: str, limits: Limits = LIMITS, access: Access | None = None) -> AsyncIterator[World]:
    """To be entered on a running loop. Afterwards nothing is under way and no connection is left."""
    store, feed, under_way = RecordingStore(), Feed(FIRST_INDEX), UnderWay()
    registry = Registry(new_state(), store, feed, ManualClock(), random.Random(7))
    daemon = Daemon("0.1.0", 1_705_314_600, 30.0, 10.0, "recording", lambda: 12.5, lambda: (0, 0.0), int, list, list)
    context = Context(registry, Reader(limits), daemon, under_way, access or Access(), Hosts(["*"]), Overload(limits))
    application = make_application(context, Broadcast(registry))
    http = make_http_server(kind, application, context)
    served = Served(http, application, listen("127.0.0.1", 0)[0])
    try:
        yield World(registry, store, under_way, http, served, context.reader, context.traffic)
    finally:
        served.stop_listening()
        await served.hang_up()
        await asyncio.wait_for(under_way.wait_until_none(), 5)
        feed.check()


async def converse(there: World, parts: Sequence[bytes]) -> bytes:
    """All that a server says, until it closes, to someone who sends these parts one by one."""
    async with Wire(there.served) as wire:
        for part in parts:
            try:
                await wire.send(part)
            except ConnectionError:  # it has heard enough
                break
            for _ in range(3):  # so that it comes by itself
                await asyncio.sleep(0)
        return await wire.rest()


async def conversation(kind: str, parts: Sequence[bytes]) -> bytes:
    """The same with a server of its own. Without the dates."""
    async with world(kind) as there:
        return re.sub(rb"Date: [^\r]*\r\n", b"", await converse(there, parts))


class MemoryTransport(asyncio.Transport):
    """What the front writes, and what it does to its connection. `room` bytes are written at once; more must wait."""

    def __init__(self, room: int = 2**30) -> None:
        super().__init__()
        self.written = bytearray()
        self.room = room
        self.reads = True
        self.is_closed = False
        self.is_reset = False
        self.is_telling = False
        self.is_lost = False
        self.has_ended = False
        self.is_paused = False

    def use(self, protocol: Connection) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        assert not self.has_ended, "nothing is written after the end"
        self.written += data
        if len(self.written) > self.room and not self.is_paused and not self.is_closed:
            self.is_paused = True
            self.protocol.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass  # whatever has to wait pauses the protocol, until all of it is sent

    def drain(self) -> None:
        """The client has read everything."""
        self.room = len(self.written) + self.room
        if self.is_paused:
            self.is_paused = False
            self.is_telling = True
            self.protocol.resume_writing()
            self.is_telling = False

    def pause_reading(self) -> None:
        assert self.reads
        self.reads = False

    def resume_reading(self) -> None:
        assert not self.reads
        self.reads = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return max(0, len(self.written) - self.room)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def fileno(self) -> int:
        return -1

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option, value[0]) == (socket.SOL_SOCKET, socket.SO_LINGER, 1)
        self.is_reset = True

    def close(self) -> None:
        assert not self.is_telling, "asyncio's transports do not bear that"
        if not self.is_closed:
            self.is_closed = True
            asyncio.get_running_loop().call_soon(self.lose)

    abort = close

    def lose(self) -> None:
        """The connection has gone."""
        self.is_closed = True
        if not self.is_lost:
            self.is_lost = True
            self.protocol.connection_lost(None)


def connect(there: World, room: int = 2**30) -> MemoryTransport:
    """A connection to the front in memory."""
    transport = MemoryTransport(room)
    transport.use(Connection(there.shared, Peer("127.0.0.1", "http")))
    return transport


async def until(is_so: Callable[[], object], what: str) -> None:
    """Waits until something is so, for some thousand turns of the loop at most."""
    for _ in range(20_000):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"never came: {what}")
