"""Listening sockets: bound early, refused in one line."""

import asyncio
import contextlib
import math
import os
import resource
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import ExpectLog
from support import TimeTravel, travel

from registryd.listeners import (
    ACCEPTS,
    Acceptor,
    CannotListen,
    _has_full_queue,
    _queue,
    adopt,
    allow_many_connections,
    is_loopback,
    listen,
    take_back,
    url_of,
)


def test_port_0_takes_a_free_port_and_the_url_names_it() -> None:
    (sock,) = listen("127.0.0.1", 0)
    with sock:
        port = sock.getsockname()[1]
        assert port > 0
        assert url_of(sock) == f"http://127.0.0.1:{port}"
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def test_an_ipv6_address_is_bracketed() -> None:
    (sock,) = listen("::1", 0)
    with sock:
        assert url_of(sock) == f"http://[::1]:{sock.getsockname()[1]}"
        assert is_loopback(sock)


def test_a_port_in_use_is_said_in_a_line() -> None:
    (first,) = listen("127.0.0.1", 0)
    with first, pytest.raises(CannotListen, match=r"cannot listen on 127\.0\.0\.1 port \d+: .*in use; set --host or"):
        listen("127.0.0.1", first.getsockname()[1])


def test_an_address_of_another_machine_is_said_in_a_line() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1 port"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("host", ["no such host", "a..b", "x" * 70, "ü..x"])
def test_a_host_that_does_not_exist_is_said_in_a_line(host: str) -> None:
    with pytest.raises(CannotListen, match=f"cannot find an address for host '{host}': .*; set --host"):
        listen(host, 0)


def test_a_host_with_an_address_that_is_not_here_listens_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET, "127.0.0.1")]
    monkeypatch.setattr("registryd.listeners._addresses", lambda host: addresses)
    (sock,) = listen("both", 0)
    with sock:
        assert sock.getsockname()[0] == "127.0.0.1"


def test_a_socket_that_is_handed_over_is_served() -> None:
    given = socket.create_server(("127.0.0.1", 0))
    with adopt("http", given.detach()) as sock:
        assert (sock.getblocking(), sock.get_inheritable()) == (False, False)
        assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


def test_a_unix_socket_has_a_path_and_is_of_this_machine_only(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(tmp_path / "http"))
        given.listen()
        with adopt("http", given.dup().detach()) as sock:
            assert url_of(sock) == f"unix:{tmp_path}/http"
            assert is_loopback(sock)


def test_what_is_handed_over_must_be_a_socket_that_listens(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(CannotListen, match="hands over as 'http' is no socket"):
        adopt("http", file.fileno())
    with (
        socket.socket() as sock,
        pytest.raises(CannotListen, match=r"as 'http' does not listen; its unit needs ListenStream= and Accept=no"),
    ):
        adopt("http", sock.dup().detach())


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("127.3.2.1", True), ("0.0.0.0", False)])
def test_loopback_is_told_from_the_rest(host: str, loopback: bool) -> None:
    (sock,) = listen(host, 0)
    with sock:
        assert is_loopback(sock) is loopback


async def test_a_connection_too_many_is_told_so(expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registryd.listeners.LINGER", 0.01)
    monkeypatch.setattr("registryd.listeners.MOST_TURNED_AWAY", 2)
    taken: list[socket.socket] = []
    (sock,) = listen("127.0.0.1", 0)
    acceptor = Acceptor([sock], lambda connection, _: taken.append(connection), lambda: len(taken) >= 1, b"full")
    acceptor.start()
    with expect_log("as many connections as there may be .--max-connections."):
        _, first = await asyncio.open_connection(*sock.getsockname())
        others = [await asyncio.open_connection(*sock.getsockname()) for _ in range(4)]
        for reader, writer in others:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b"full"
            writer.close()
    assert len(taken) == 1
    while acceptor._turned_away:
        await asyncio.sleep(0)
    first.close()
    taken[0].close()
    acceptor.stop()


def test_it_refuses_while_there_is_no_room_and_until_those_who_were_refused_can_be_back(
    expect_log: ExpectLog,
) -> None:
    async def story(loop: TimeTravel) -> None:
        told: list[float] = []
        is_full = True
        (sock,) = listen("127.0.0.1", 0)
        acceptor = Acceptor([sock], lambda *_: None, lambda: is_full, b"", lambda: told.append(loop.time()))
        assert not acceptor.is_refusing(), "nobody has come"
        with expect_log("as many connections"), socket.create_connection(sock.getsockname()):
            acceptor._accept(sock)
        assert (told, acceptor.refused) == ([loop.time()], 1)
        for _ in range(100):
            assert acceptor.is_refusing()
            await asyncio.sleep(0.25)
        is_full = False
        await asyncio.sleep(0.5)
        assert acceptor.is_refusing()
        await asyncio.sleep(0.5)
        assert not acceptor.is_refusing()
        acceptor.stop()

    travel(story)


def test_where_the_queue_is_full_some_have_been_dropped_and_no_time_counts(expect_log: ExpectLog) -> None:
    async def story(loop: TimeTravel) -> None:
        told: list[float] = []
        taken: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0), backlog=ACCEPTS + 5) as sock, ExitStack() as stack:
            sock.setblocking(False)
            acceptor = Acceptor([sock], lambda one, _: taken.append(one), on_refused=lambda: told.append(loop.time()))
            for _ in range(3):
                stack.enter_context(socket.create_connection(sock.getsockname()))
            acceptor._accept(sock)
            assert (len(taken), told, acceptor.is_refusing()) == (3, [], False)
            for _ in range(ACCEPTS + 6):
                stack.enter_context(socket.create_connection(sock.getsockname()))
            with expect_log("connections come faster than they can be accepted"):
                acceptor._accept(sock)
            assert len(taken) == 3 + ACCEPTS
            assert acceptor.is_refusing()
            for one in taken:
                one.close()

    travel(story)


def test_while_those_who_waited_at_the_last_beat_still_wait_not_everyone_is_heard() -> None:
    async def story(loop: TimeTravel) -> None:
        told: list[float] = []
        taken: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0)) as sock, ExitStack() as stack:
            sock.setblocking(False)
            acceptor = Acceptor([sock], lambda one, _: taken.append(one), on_refused=lambda: told.append(loop.time()))

            def knock(count: int) -> None:
                for _ in range(count):
                    stack.enter_context(socket.create_connection(sock.getsockname()))

            assert acceptor.hears(), "nobody waits"
            knock(ACCEPTS - 1)
            assert acceptor.hears(), "they have just come"
            acceptor._accept(sock)
            assert acceptor.hears()
            knock(ACCEPTS + 1)
            assert acceptor.hears()
            assert told == []
            acceptor._accept(sock)
            knock(ACCEPTS)
            assert not acceptor.hears(), "one is left of those who were there at the last beat"
            assert told == [loop.time()]
            acceptor._accept(sock)
            assert acceptor.hears(), "those who wait have come since"
            assert not acceptor.is_refusing()
            sock.accept()[0].close()  # by another process that has the socket, too
            assert acceptor.hears(), "nobody waits"
            for one in taken:
                one.close()

    travel(story)


def test_a_unix_socket_has_no_queue_that_drops(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "http"))
        sock.listen()
        assert not _has_full_queue(sock)
        assert _queue(sock) == (0, math.inf)


def test_a_connection_that_was_kept_is_taken_back_with_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        kept = take_back(server.accept()[0].detach())
        assert kept is not None
        sock, address = kept
        with sock:
            assert address == client.getsockname()
            assert (sock.getblocking(), sock.get_inheritable()) == (False, False)


def test_what_is_no_connection_any_more_is_closed(tmp_path: Path) -> None:
    with socket.socket() as sock, (tmp_path / "file").open("w") as file:
        for descriptor in (os.dup(sock.fileno()), os.dup(file.fileno())):
            assert take_back(descriptor) is None
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)


def test_where_there_is_no_limit_on_files_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr("resource.getrlimit", lambda _: unlimited)
    monkeypatch.setattr("resource.setrlimit", lambda _, __: None)
    assert allow_many_connections() == sys.maxsize
