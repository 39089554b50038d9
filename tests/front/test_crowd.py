"""Connections that must go for others, at whatever moment of theirs: none is left behind."""

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop
from conftest import ExpectLog
from world import until, world

from registryd.front.server import FrontServer

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pair(listening: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection."""
    client = socket.create_connection(listening.getsockname())
    server, _ = listening.accept()
    server.setblocking(False)
    return client, server


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("turns", range(5))
def test_one_that_must_go_while_it_is_being_made_leaves_nothing(loop: str, turns: int, expect_log: ExpectLog) -> None:
    async def story() -> None:
        async with world("front") as there:
            http = there.http
            assert isinstance(http, FrontServer)
            there.shared.overload.crowd.most = 1
            with socket.create_server(("127.0.0.1", 0)) as listening, expect_log("127.0.0.1 has 1 connections"):
                ends = [pair(listening) for _ in range(4)]
                for client, server in ends:
                    http.take(server, client.getsockname())
                    assert len(http) <= 1, "who is about to go does not count"
                    for _ in range(turns):
                        await asyncio.sleep(0)
            *gone, last = (client for client, _ in ends)
            last.sendall(b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n")
            last.setblocking(False)
            answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(last, 4096), 5)
            assert answer.startswith(b"HTTP/1.1 200 ")
            for client in (*gone, last):
                client.close()
            await asyncio.wait_for(http.empty(), 5)
            await until(lambda: not there.shared.arriving, "nobody is on the way")
            assert len(http) == 0
            assert there.shared.overload.crowd._by_place == {}
            assert not there.shared.leaving

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(story())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("turns", range(4))
def test_a_stop_while_one_is_being_made_waits_for_nobody(loop: str, turns: int) -> None:
    async def story() -> None:
        async with world("front") as there:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                client, server = pair(listening)
            there.http.take(server, client.getsockname())
            for _ in range(turns):
                await asyncio.sleep(0)
            await asyncio.wait_for(there.http.close(0), 5)
            await until(lambda: len(there.http) == 0, "nothing is left")
            client.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(story())
