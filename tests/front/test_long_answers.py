"""Long answers under TLS: given in pieces, so that what nobody reads is known, bounded and cut off."""

import asyncio
import gc
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trustme
import uvloop
from conftest import ExpectLog
from raw import answers_in
from support import a_registration
from world import World, until, world

from registryd.front.connection import Connection, Timeouts
from registryd.front.server import FrontServer
from registryd.listeners import Acceptor, listen

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
ASK = b"GET /services/users HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /services/users HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def play(loop: str, story: Callable[[World, Connect], Awaitable[None]], *, has_tls: bool = True) -> None:
    """A story with a service of 3 MB behind TLS, or without it."""
    authority = trustme.CA()
    mine, yours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(mine)
    authority.configure_trust(yours)

    async def tell() -> None:
        async with world("front") as there:
            for n in range(300):
                metadata = {str(k): "v" * 1000 for k in range(10)}
                await there.registry.register(a_registration(instance_id=f"i{n}", metadata=metadata))
            server = FrontServer(there.shared, tls=mine if has_tls else None)
            (sock,) = listen("127.0.0.1", 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # or the system would take all of it
            acceptor = Acceptor([sock], server.take)
            acceptor.start()

            async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.setblocking(False)
                await asyncio.get_running_loop().sock_connect(client, sock.getsockname())
                if has_tls:
                    return await asyncio.open_connection(
                        sock=client, ssl=yours, server_hostname="127.0.0.1", limit=2**16
                    )
                return await asyncio.open_connection(sock=client, limit=2**16)

            try:
                await story(there, connect)
            finally:
                acceptor.stop()
                await server.close(0)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(tell())


@pytest.mark.parametrize("loop", LOOPS)
def test_who_reads_gets_all_of_it_in_order(loop: str) -> None:
    async def story(there: World, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(ASK * 3 + LAST)
        heard = await asyncio.wait_for(reader.read(), 15)
        answers, rest = answers_in(heard)
        assert not rest
        assert [answer.status for answer in answers] == [200] * 4
        assert len({answer.body for answer in answers}) == 1
        assert answers[0].body.count(b'"instance_id"') == 300
        assert there.shared.overload.waiting.bytes == 0
        writer.transport.abort()

    play(loop, story)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_not_read_counts_and_is_let_go(loop: str, expect_log: ExpectLog) -> None:
    async def story(there: World, connect: Connect) -> None:
        waiting = there.shared.overload.waiting
        waiting.most = 5_000_000
        with expect_log("more than 5000000 bytes wait for clients"):
            clients = [await connect() for _ in range(6)]
            for _, writer in clients:
                writer.write(ASK)
            while waiting.let_go < 4:
                await asyncio.sleep(0)
        assert 1_000_000 < waiting.bytes <= 5_000_000, "all but what is on the way"
        for _, writer in clients:
            writer.transport.abort()

    play(loop, story)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_stops_reading_is_cut_off(loop: str) -> None:
    async def story(there: World, connect: Connect) -> None:
        there.shared.timeouts = Timeouts(idle=60, body=60, unread=0.1)
        _, other = await connect()
        _, writer = await connect()
        writer.write(ASK)
        while not there.shared.overload.waiting.bytes:
            await asyncio.sleep(0)
        await until(lambda: len(there.shared.connections) == 2, "both are here")
        while len(there.shared.connections) == 2:
            await asyncio.sleep(0)
        assert there.shared.overload.waiting.bytes == 0
        writer.transport.abort()
        other.transport.abort()

    play(loop, story)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_has_gone_leaves_nothing_for_the_garbage_collector(loop: str) -> None:
    async def story(there: World, connect: Connect) -> None:
        gc.collect()
        gc.disable()
        try:
            reader, writer = await connect()
            writer.write(LIVE)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.transport.abort()
            await until(lambda: not there.shared.connections, "it has gone")
            await asyncio.sleep(0)
            assert not [one for one in gc.get_objects() if isinstance(one, Connection)]
        finally:
            gc.enable()

    play(loop, story)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("has_tls", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("ask", [ASK, ASK.replace(b" HTTP", b"?limit=300 HTTP")], ids=["hot", "handler"])
def test_of_an_answer_that_is_not_read_all_counts(loop: str, ask: bytes, has_tls: bool) -> None:
    async def story(there: World, connect: Connect) -> None:
        waiting = there.shared.overload.waiting
        reader, writer = await connect()
        writer.write(ask)
        await reader.readuntil(b"\r\n\r\n")
        while waiting.bytes < 3_000_000:
            await asyncio.sleep(0)
        (connection,) = there.shared.connections
        while not has_tls and connection._unsent() > 500_000:  # TLS has no use for what it has encrypted
            await reader.read(2**16)
        assert waiting.bytes > 3_000_000
        while waiting.bytes:
            await reader.read(2**16)
        assert connection._unsent() <= 2**16, "all but what TLS has of it already"
        writer.transport.abort()

    play(loop, story, has_tls=has_tls)


@pytest.mark.parametrize("loop", LOOPS)
def test_under_tls_a_reader_has_his_time_for_a_last_answer_too(loop: str) -> None:
    async def story(there: World, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(LAST)
        await until(lambda: there.shared.overload.waiting.bytes > 0, "he is answered")
        (connection,) = there.shared.connections
        assert connection._closes_later
        assert not connection._transport.is_closing(), "what it has not sent then, it would drop soon"
        answers, rest = answers_in(await asyncio.wait_for(reader.read(), 15))
        assert not rest
        assert [answer.body.count(b'"instance_id"') for answer in answers] == [300]
        await until(lambda: not there.shared.connections, "it closes")
        writer.transport.abort()

    play(loop, story)
