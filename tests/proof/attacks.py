"""What is done to a registry that is flooded, as data: flood.py does it, and looks what becomes of everyone else.

Every attack goes on until the scene is over, and leaves nothing behind: its connections end with a reset.
"""

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, cast

#: The bounds of the registry that is attacked: small, so that a flood of a second goes far beyond each of them.
CONNECTIONS, OF_ONE_ADDRESS, REQUESTS, WAITING = 600, 250, 500, 4 * 1024 * 1024
#: Addresses of attackers.
ADDRESSES = [f"127.0.1.{n}" for n in range(1, 6)]
#: Who changes something all the time, for watchers to be told.
MOVER = "127.0.0.4"
#: linux/in.h: a port is chosen when the other side is known, too.
BIND_ADDRESS_NO_PORT = 24
#: Closed on this, a connection is reset.
RESET = struct.pack("ii", 1, 0)
#: Of linux/tcp_states.h, as the first byte of TCP_INFO tells it.
ESTABLISHED = 1
#: Seconds for which who does not read, or does not end what he sends, stays before another comes in his place.
STAY = 1.0
#: Instances of 50 KB each in the long list. The system takes some 3 MB for a connection before anything waits here.
LARGE = 10

HOST = b"Host: localhost\r\n"
LIVE = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
LIST = b"GET /services/large HTTP/1.1\r\n" + HOST + b"\r\n"
WATCH = b"GET /watch HTTP/1.1\r\n" + HOST + b"\r\n"
#: Some 180 KB of a header block that does not end: the registry reads up to 196 of it.
HALF_HEAD = b"GET /livez HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 880) for n in range(200))
HALF_BODY = b"POST /register HTTP/1.1\r\n" + HOST + b"Content-Length: 262144\r\n\r\n" + b" " * 262_000


class Scene:
    """The registry from outside."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self._port, self._tls = port, tls
        self.attempts = 0
        self.changes = 0
        self._end = 0.0

    def begin(self, seconds: float) -> None:
        """An attack begins, which is over after so many."""
        self.attempts = self.changes = 0
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end

    @property
    def is_plain(self) -> bool:
        return self._tls is None

    def knock(self, address: str, buffer: int = 0) -> socket.socket:
        """A connection that is on its way, from this address. It does not wait to be accepted."""
        self.attempts += 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.bind((address, 0))
        sock.connect_ex(("127.0.0.1", self._port))
        return sock

    @contextlib.asynccontextmanager
    async def stream(
        self, address: str, buffer: int = 0
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that can speak. Raises OSError, TimeoutError."""
        sock = self.knock(address, buffer)
        try:
            name = None if self._tls is None else "localhost"
            async with asyncio.timeout(STAY):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
                reader, writer = await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def side_by_side(self, count: int, one: Callable[[str], Awaitable[None]]) -> None:
        """So many at once, of two addresses, each again and again. That they are cut off is what they came for."""

        async def again(address: str) -> None:
            while not self.is_over:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await one(address)
                await asyncio.sleep(0)

        await asyncio.gather(*(again(ADDRESSES[n % 2]) for n in range(count)))

    async def stay(self, writer: asyncio.StreamWriter) -> None:
        """Stays for a while, unless it is cut off."""
        sock = writer.get_extra_info("socket")
        end = time.monotonic() + STAY
        while not self.is_over and time.monotonic() < end:
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED:
                return
            await asyncio.sleep(0.02)


async def crowd_in(scene: Scene) -> None:
    """More connections than there may be, of many addresses: those that have room stay, the others come anew."""
    sources = itertools.cycle(ADDRESSES)
    held: list[socket.socket] = []
    while not scene.is_over:
        for _ in range(20):
            if len(held) > CONNECTIONS + 100:
                held.pop().close()
            held.append(scene.knock(next(sources)))
        await asyncio.sleep(0.005)
    _let_go(held)


async def crowd_one_address(scene: Scene) -> None:
    """Many times the connections that an address may have. Half of them ask something before they fall silent."""
    held: list[socket.socket] = []
    while not scene.is_over:
        for n in range(20):
            sock = scene.knock(ADDRESSES[0])
            held.append(sock)
            if n % 2 and scene.is_plain:
                with contextlib.suppress(OSError):
                    sock.send(LIVE)
        if len(held) > 4 * OF_ONE_ADDRESS:
            gone, held = held[:20], held[20:]
            _let_go(gone)
        await asyncio.sleep(0.005)
    _let_go(held)


async def knock_and_run(scene: Scene) -> None:
    """Connections that are reset as soon as they are there, as fast as they can be made."""
    while not scene.is_over:
        for _ in range(100):
            scene.knock(ADDRESSES[0]).close()
        await asyncio.sleep(0)


async def pulse(scene: Scene) -> None:
    """A few connections too many, for a moment; a rest in which there is room; and again."""
    while not scene.is_over:
        held = [scene.knock(ADDRESSES[n % len(ADDRESSES)]) for n in range(CONNECTIONS + 20)]
        await asyncio.sleep(0.1)
        _let_go(held)
        await asyncio.sleep(0.3)


async def ask_and_not_read(scene: Scene) -> None:
    """Readers of a long list who ask for it again and again, and never read."""

    async def one(address: str) -> None:
        async with scene.stream(address, 4096) as (_, writer):
            _transport(writer).pause_reading()
            writer.write(LIST * 20)
            await scene.stay(writer)

    await scene.side_by_side(20, one)


async def send_by_half(scene: Scene) -> None:
    """Header blocks, and bodies, that are long and do not end."""
    turns = itertools.cycle([HALF_HEAD, HALF_BODY])

    async def one(address: str) -> None:
        async with scene.stream(address) as (_, writer):
            writer.write(next(turns))
            await scene.stay(writer)

    await scene.side_by_side(60, one)


async def ask_too_often(scene: Scene) -> None:
    """More requests a second than an address may make."""

    async def one(address: str) -> None:
        async with scene.stream(ADDRESSES[0]) as (reader, writer):
            while not scene.is_over:
                writer.write(LIVE * 100)
                scene.attempts += 100
                await _read(reader, 100)
                await asyncio.sleep(0)

    await scene.side_by_side(4, one)


async def watch_and_not_read(scene: Scene) -> None:
    """Watchers who do not read, while there is always something new to tell them."""

    async def one(address: str) -> None:
        async with scene.stream(address, 4096) as (_, writer):
            _transport(writer).pause_reading()
            writer.write(WATCH)
            await scene.stay(writer)

    await asyncio.gather(scene.side_by_side(20, one), _move(scene))


async def _move(scene: Scene) -> None:
    """Registers the same few again and again, with other metadata each time."""
    for n in itertools.count():
        if scene.is_over:
            return
        await asyncio.sleep(0)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with scene.stream(MOVER) as (reader, writer):
                while not scene.is_over:
                    writer.write(b"".join(registration(f"moving-{k}", f"{n} " + "x" * 1000) for k in range(10)))
                    scene.changes += 10
                    await _read(reader, 10)
                    await asyncio.sleep(0.01)


async def _read(reader: asyncio.StreamReader, count: int) -> None:
    """Reads so many answers."""
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))


def registration(instance_id: str, text: str) -> bytes:
    """The request that registers one with this text in its metadata."""
    body = b'{"service_name":"moving","base_url":"http://h","instance_id":"%b","ttl":60,"metadata":{"k":"%b"}}' % (
        instance_id.encode(), text.encode(),
    )  # fmt: skip
    return b"POST /register HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (HOST, len(body), body)


def large(n: int) -> dict[str, Any]:
    """One of LARGE instances whose list is half a megabyte."""
    metadata = {str(key): "x" * 1000 for key in range(50)}
    return {
        "service_name": "large", "base_url": "http://h", "instance_id": f"large-{n}", "ttl": 3600, "metadata": metadata
    }  # fmt: skip


def _transport(writer: asyncio.StreamWriter) -> asyncio.Transport:
    return cast("asyncio.Transport", writer.transport)


def _let_go(held: list[socket.socket]) -> None:
    for sock in held:
        sock.close()
    held.clear()


class Attack(NamedTuple):
    """A flood by its name, and of how many addresses it comes."""

    name: str
    do: Callable[[Scene], Awaitable[None]]
    addresses: int


ATTACKS = [
    Attack("connections, in all", crowd_in, len(ADDRESSES)),
    Attack("connections, one address", crowd_one_address, 1),
    Attack("connect and reset", knock_and_run, 1),
    Attack("pulses of refusals", pulse, len(ADDRESSES)),
    Attack("lists that nobody reads", ask_and_not_read, 2),
    Attack("half heads, half bodies", send_by_half, 2),
    Attack("requests, one address", ask_too_often, 1),
    Attack("watchers who do not read", watch_and_not_read, 3),
]
#: What is still going on when it is told to stop.
LAST = [ask_and_not_read, send_by_half, watch_and_not_read]
