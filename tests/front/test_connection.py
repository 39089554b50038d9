"""What the front owes HTTP beyond the right answer: order, bounds, time, and a clean end."""

import asyncio
import contextlib
import gc
import re
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from conftest import ExpectLog
from support import a_registration
from world import MemoryTransport, World, connect, until, world

from registryd.core.errors import StoreUnavailable
from registryd.core.limits import Limits
from registryd.front import connection
from registryd.front.exchange import Peer
from registryd.front.server import FrontServer
from registryd.listeners import Acceptor, listen

LOOKUP = b"GET /services/users HTTP/1.1\r\nHost: h\r\n\r\n"
BEAT = b"POST /heartbeat/i1 HTTP/1.1\r\nHost: h\r\n\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
WAIT = b"GET /services/users?index=%d&wait=1m HTTP/1.1\r\nHost: h\r\n\r\n"
A_POST = b"POST /register HTTP/1.1\r\nHost: h\r\nContent-Length: 64\r\n\r\n"
BODY = b'{"service_name":"users","base_url":"http://h","instance_id":"a"'.ljust(63) + b"}"


def play(story: Callable[[World], Awaitable[None]], limits: Limits | None = None) -> None:
    """Runs a story in a world with one registered instance."""

    async def whole() -> None:
        async with world("front", limits or Limits()) as there:
            await there.registry.register(a_registration())
            await story(there)

    asyncio.run(whole())


def statuses(transport: MemoryTransport) -> list[bytes]:
    return [part[:3] for part in bytes(transport.written).split(b"HTTP/1.1 ")[1:]]


async def answers(transport: MemoryTransport, count: int) -> list[bytes]:
    """The statuses, as soon as there are so many."""
    await until(lambda: len(statuses(transport)) >= count, f"{count} answers")
    return statuses(transport)


# Order.


@pytest.mark.parametrize(
    "first", [LOOKUP, LIVE, BEAT, A_POST + BODY], ids=["look-up", "handler", "heartbeat", "register"]
)
def test_a_request_may_be_cut_anywhere(first: bytes) -> None:
    async def story(there: World) -> None:
        data = first + LIVE + LOOKUP
        for cut in range(len(data) + 1):
            transport = connect(there)
            transport.protocol.data_received(data[:cut])
            transport.protocol.data_received(data[cut:])
            assert await answers(transport, 3) == [b"200"] * 3, cut
            transport.lose()

    play(story)


def test_hot_calls_wait_behind_a_handler_that_waits() -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        transport.protocol.data_received(WAIT % there.registry.index("users") + LOOKUP + LIVE + LOOKUP)
        await until(lambda: there.registry.feed.watchers, "the long poll")
        transport.protocol.data_received(LOOKUP)
        assert transport.written == b""

        await there.registry.register(a_registration(instance_id="i2"))
        assert await answers(transport, 5) == [b"200"] * 5
        assert transport.written.count(b'"count":2') == 4

    play(story)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_hot_call_that_waits_for_the_store_keeps_its_place(is_known: bool) -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        if is_known:
            transport.protocol.data_received(A_POST + BODY)
        there.store.hold()
        before = bytes(transport.written)
        transport.protocol.data_received(A_POST + BODY.replace(b'"a"', b'"b"'))
        transport.protocol.data_received(LIVE + LOOKUP)
        transport.protocol.data_received(LOOKUP)
        await there.store.waiting.wait()
        assert transport.written == before
        assert there.http.idle() == []
        assert len(there.under_way) == 1

        there.store.release()
        assert (await answers(transport, 4 + is_known))[-4:] == [b"200"] * 4
        assert transport.written.count(b'"instance_id":"b"') == 3, "of the registration, and of both lists"
        await until(lambda: there.http.idle() and not len(there.under_way), "it is idle")

    play(story)


def test_a_hot_call_that_waits_is_carried_out_whoever_goes_meanwhile() -> None:
    async def story(there: World) -> None:
        gone, half_open = connect(there), connect(there)
        there.store.hold()
        gone.protocol.data_received(A_POST + BODY + LIVE)
        half_open.protocol.data_received(A_POST + BODY.replace(b'"a"', b'"b"') + LIVE)
        await there.store.waiting.wait()
        gone.lose()
        assert half_open.protocol.eof_received(), "it stays open"

        there.store.release()
        assert await answers(half_open, 2) == [b"200"] * 2
        await until(lambda: half_open.is_lost, "the end")
        assert gone.written == b""
        assert there.registry.lease("a").status == there.registry.lease("b").status == "up"

    play(story)


@pytest.mark.parametrize(
    ("failure", "said"),
    [(StoreUnavailable, b"503"), (ZeroDivisionError, b"500")],
    ids=["store", "fault"],
)
def test_a_hot_call_that_fails_later_is_answered_as_by_its_handler(
    failure: type[Exception], said: bytes, expect_log: ExpectLog
) -> None:
    async def story(there: World) -> None:
        there.store.fail_with(failure())
        hot, handler = connect(there), connect(there)
        with expect_log("failed request=POST /register") if said == b"500" else contextlib.nullcontext():
            hot.protocol.data_received(A_POST + BODY + LIVE)
            handler.protocol.data_received(A_POST.replace(b"/register", b"/register/") + BODY + LIVE)
            assert await answers(hot, 2) == await answers(handler, 2) == [said, b"200"]
        one, other = (re.sub(rb"Date: [^\r]*", b"", transport.written) for transport in (hot, handler))
        assert one == other

    play(story)


def test_a_header_block_that_is_known_is_not_enough() -> None:
    async def story(there: World) -> None:
        for request in (LOOKUP, BEAT, A_POST + BODY):
            transport = connect(there)
            transport.protocol.data_received(request)
            assert statuses(transport) == [b"200"]
            for part in (request[:-4], request[:-2], request[:-1]):
                again = connect(there)
                again.protocol.data_received(part)
                assert again.written == b"", "it is not all here"
                again.protocol.data_received(request[len(part) :])
                assert await answers(again, 1) == [b"200"]
        # Known bytes after a part of another request are a part of that request.
        transport = connect(there)
        transport.protocol.data_received(A_POST.replace(b"64", b"%d" % len(LOOKUP)))
        transport.protocol.data_received(LOOKUP)
        assert await answers(transport, 1) == [b"400"]
        assert b"invalid_json" in transport.written

    play(story)


def test_what_is_known_of_a_header_block_is_its_own() -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        # Two requests at once teach nothing of the first by the second.
        transport.protocol.data_received(b"GET /livez HTTP/1.1\r\nHost: h\r\nIf-None-Match: *\r\n\r\n" + LOOKUP)
        await answers(transport, 2)
        assert not there.shared.blocks
        transport.protocol.data_received(b"\r\nGET /services/users HTTP/1.1\r\nHost: h\r\n\r\n")
        transport.protocol.data_received(b"GET /services/users HTTP/1.1\r\n\r\n")
        assert await answers(transport, 4) == [b"200", b"200", b"200", b"400"]

        for odd in (
            b"Host: h\r\nHost: h",
            b"Host: a b",
            b"X: y",
            b"Host: h\r\nConnection: close",
            b"Host: h\r\nExpect: x",
        ):
            other = connect(there)
            other.protocol.data_received(b"GET /services/users HTTP/1.1\r\n" + odd + b"\r\n\r\n")
            await answers(other, 1)
            assert not there.shared.blocks, odd

    play(story)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_BLOCKS", 10)
    monkeypatch.setattr(connection, "MOST_REQUESTS", 10)

    async def story(there: World) -> None:
        transport = connect(there)
        for n in range(100):
            transport.protocol.data_received(b"GET /services/users HTTP/1.1\r\nHost: h%d\r\n\r\n" % n)
            transport.protocol.data_received(b"GET /services/%d HTTP/1.1\r\nHost: h1\r\n\r\n" % n)
            await answers(transport, 2 * n + 2)
        assert len(there.shared.blocks) <= 10
        assert len(there.shared.requests) <= 10

    play(story)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_hot_call_that_fails_is_a_500_and_a_line_in_the_log(
    at_once: bool, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        if at_once:  # the header block is known by then
            transport.protocol.data_received(BEAT)
        monkeypatch.setattr(there.registry, "renew", lambda *_: 1 / 0)
        with expect_log("a hot call failed"):
            transport.protocol.data_received(BEAT if at_once else BEAT + LIVE)
        assert statuses(transport)[-1] == b"500"
        assert b'"code":"internal_error"' in transport.written
        await until(lambda: transport.has_ended, "the end")
        transport.lose()

    play(story)


def test_one_hot_call_of_a_connection_is_timed_now_and_then_and_stands_for_the_others() -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        transport.protocol.data_received(A_POST + BODY)
        lookups = there.traffic.answers("GET", "/services/{service_name}", 200)

        def look() -> tuple[int, int]:
            transport.protocol.data_received(LOOKUP)
            return len(lookups), sum(lookups.durations.counts)

        assert [look() for _ in range(4)] == [(1, 0), (2, 2), (3, 2), (4, 2)], "the first was parsed"
        transport.protocol._watch_idle()
        assert [look() for _ in range(2)] == [(5, 5), (6, 5)]
        assert statuses(transport) == [b"200"] * 7

    play(story)


# Bounds.


def test_no_more_is_read_while_much_waits_and_then_it_goes_on() -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        transport.protocol.data_received(WAIT % there.registry.index("users"))
        await until(lambda: there.registry.feed.watchers, "the long poll")
        flood = LIVE * 4000
        sent = 0
        while transport.reads:
            transport.protocol.data_received(flood[sent : sent + 8192])
            sent += 8192
            await asyncio.sleep(0)
            assert sent < len(flood), "it stops to read"
        most = connection.MOST_WAITING // connection.EACH_WAITING + connection.SLICE // len(LIVE) + 1
        assert len(transport.protocol._exchanges) <= most

        await there.registry.register(a_registration(instance_id="i2"))
        await until(lambda: transport.reads, "it reads again")
        transport.protocol.data_received(flood[sent:])
        assert await answers(transport, 4001) == [b"200"] * 4001

    play(story)


def test_a_client_that_does_not_read_gets_no_further_answers_until_it_does() -> None:
    async def story(there: World) -> None:
        for n in range(50):
            await there.registry.register(a_registration(instance_id=f"n{n}", metadata={"x": "y" * 1000}))
        transport = connect(there, room=100_000)
        transport.protocol.data_received(LOOKUP * 300)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(transport.written) < 200_000
        while len(statuses(transport)) < 300:
            there_are = len(statuses(transport))
            transport.drain()
            await answers(transport, there_are + 1)
        assert statuses(transport) == [b"200"] * 300

    play(story)


def test_a_flood_on_one_connection_leaves_others_their_turn() -> None:
    async def story(there: World) -> None:
        flood, other = connect(there), connect(there)
        flood.protocol.data_received(LOOKUP * 5000)
        other.protocol.data_received(LOOKUP)
        assert statuses(other) == [b"200"]
        assert len(statuses(flood)) < 1000
        assert await answers(flood, 5000) == [b"200"] * 5000

    play(story)


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /services/" + b"x" * 200_000,
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 40_000,
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 200_000,
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"x" * 200_000,
        b"POST /livez HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 50_000,
        b"POST /livez HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 300_000,
        b"POST /livez HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000,
    ],
    ids=["URL", "headers", "value", "name", "trailers", "extension", "chunks"],
)
def test_what_has_no_end_is_ended(endless: bytes) -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        for n in range(0, len(endless), 10_000):
            transport.protocol.data_received(endless[n : n + 10_000])
            await asyncio.sleep(0)
        await until(lambda: transport.has_ended or transport.is_closed, "the end")
        assert statuses(transport)[0] in (b"400", b"413", b"431")

    play(story)


# Time.


@pytest.mark.parametrize(
    "part",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: h\r\n", A_POST + BODY[:-1], LOOKUP, LIVE],
    ids=["nothing", "line", "headers", "body", "between hot calls", "between others"],
)
def test_who_is_too_slow_is_let_go(part: bytes) -> None:
    async def story(there: World) -> None:
        there.shared.timeouts = connection.Timeouts(idle=0.03, body=0.03, unread=9, linger=9)
        transport = connect(there)
        transport.protocol.data_received(part)
        while not transport.is_lost:
            await asyncio.sleep(0)

    play(story)


def test_who_waits_for_an_answer_is_not_idle() -> None:
    async def story(there: World) -> None:
        there.shared.timeouts = connection.Timeouts(idle=0.01, body=0.01, unread=9, linger=9)
        transport = connect(there)
        there.store.hold()
        transport.protocol.data_received(A_POST + BODY)
        loop, begun = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        while loop.time() < begun + 0.05:
            await asyncio.sleep(0)
        assert not transport.is_closed
        there.store.release()
        assert await answers(transport, 1) == [b"200"]

    play(story)


@pytest.mark.parametrize("request_bytes", [LOOKUP, LOOKUP.replace(b" HTTP", b"?limit=99 HTTP")], ids=["hot", "handler"])
def test_an_answer_that_nobody_reads_is_given_up(request_bytes: bytes) -> None:
    async def story(there: World) -> None:
        there.shared.timeouts = connection.Timeouts(idle=9, body=9, unread=0.02, linger=9)
        transport = connect(there, room=100)
        transport.protocol.data_received(request_bytes)
        while not transport.is_lost:
            await asyncio.sleep(0)

    play(story)


# The end.


def test_the_end_of_the_other_side_ends_waiting_and_not_answering() -> None:
    async def story(there: World) -> None:
        waiting = connect(there)
        waiting.protocol.data_received(WAIT % there.registry.index("users") + LIVE)
        await until(lambda: there.registry.feed.watchers, "the long poll")
        waiting.protocol.eof_received()
        await until(lambda: waiting.is_lost, "the end, although a request was behind the one that waited")
        assert waiting.written == b""

        half_open = connect(there)
        half_open.protocol.data_received((LIVE + LOOKUP) * 400)
        assert half_open.protocol.eof_received(), "it stays open"
        assert await answers(half_open, 800) == [b"200"] * 800
        await until(lambda: half_open.is_lost, "the end")

        half = connect(there)
        half.protocol.data_received(LIVE + A_POST + BODY[:-1])
        half.protocol.eof_received()
        assert await answers(half, 1) == [b"200"]
        await until(lambda: half.is_lost, "the end")
        assert len(statuses(half)) == 1

    play(story)


def test_a_client_that_goes_is_noticed_whatever_it_waits_for() -> None:
    async def story(there: World) -> None:
        there.store.hold()
        for part in (WAIT % there.registry.index("users"), b"GET /watch HTTP/1.1\r\nHost: h\r\n\r\n", A_POST + BODY):
            transport = connect(there)
            transport.protocol.data_received(part + LIVE)
            await until(lambda: len(there.under_way), "it is under way")
            transport.lose()
        there.store.release()
        await until(lambda: not len(there.under_way), "nobody is waited for")

    play(story)


def test_a_refused_client_that_goes_on_sending_is_read_for_a_while() -> None:
    async def story(there: World) -> None:
        there.shared.timeouts = connection.Timeouts(idle=9, body=9, unread=9, linger=0.02)
        transport = connect(there)
        transport.protocol.data_received(b"nonsense\r\n\r\n")
        assert transport.has_ended
        assert not transport.is_closed
        transport.protocol.data_received(b"x" * 100_000)
        while not transport.is_lost:
            await asyncio.sleep(0)
        assert len(statuses(transport)) == 1

    play(story)


class FullTransport(MemoryTransport):
    """Has something to send that nobody reads, so that it closes only when it is cut off."""

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        asyncio.get_running_loop().call_soon(self.lose)


def test_the_server_closes_when_all_is_sent_or_its_time_is_up() -> None:
    async def story(there: World) -> None:
        idle, full = connect(there), FullTransport(room=10)
        full.use(connection.Connection(there.shared, Peer("127.0.0.1", "http")))
        full.protocol.data_received(LOOKUP)
        assert await there.http.close(0.02) == 1
        assert idle.is_lost
        assert full.is_lost

    play(story)


# Sockets of every kind.


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    heard = await reader.read()
    writer.close()
    return heard


def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    async def story(there: World) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "socket"))
            sock.listen()
            sock.setblocking(False)
            acceptor = Acceptor([sock], there.http.take)
            acceptor.start()
            heard = await ask(*await asyncio.open_unix_connection(str(tmp_path / "socket")))
            acceptor.stop()
        assert heard.endswith(b"\r\n\r\nok\n")

    play(story)


def test_tls_is_served_and_who_does_not_speak_it_is_let_go() -> None:
    authority = trustme.CA()
    mine, yours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(mine)
    authority.configure_trust(yours)

    async def story(there: World) -> None:
        server = FrontServer(there.shared, tls=mine)
        (sock,) = listen("127.0.0.1", 0)
        address = sock.getsockname()
        acceptor = Acceptor([sock], server.take)
        acceptor.start()
        assert (await ask(*await asyncio.open_connection(*address, ssl=yours))).endswith(b"\r\n\r\nok\n")

        _, writer = await asyncio.open_connection(*address)
        writer.write(LIVE)
        writer.close()
        await until(lambda: len(server) == 0, "it has been let go")
        acceptor.stop()

    play(story)


def test_who_goes_without_having_spoken_tls_leaves_nothing_for_the_garbage_collector() -> None:
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def story(there: World) -> None:
        server = FrontServer(there.shared, tls=mine)
        gc.collect()
        gc.disable()
        try:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                client = socket.create_connection(listening.getsockname())
                taken, address = listening.accept()
            taken.setblocking(False)
            server.take(taken, address)
            client.close()
            await until(lambda: len(server) == 0, "it has been let go")
            await asyncio.sleep(0)
            assert not [left for left in gc.get_objects() if isinstance(left, SSLProtocol)]
        finally:
            gc.enable()

    play(story)


def test_a_body_has_its_time_only_when_it_is_its_turn() -> None:
    async def story(there: World) -> None:
        there.shared.timeouts = connection.Timeouts(idle=9, body=0.03, unread=9, linger=9)
        transport = connect(there)
        transport.protocol.data_received(WAIT % there.registry.index("users") + A_POST + BODY[:-1])
        await until(lambda: there.registry.feed.watchers, "the long poll")
        loop, begun = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        while loop.time() < begun + 0.06:
            await asyncio.sleep(0)
        assert not transport.is_closed, "it stands in line"

        await there.registry.register(a_registration(instance_id="i2"))
        assert await answers(transport, 1) == [b"200"]
        while not transport.is_lost:  # now it has its time, and lets it pass
            await asyncio.sleep(0)

    play(story)


def test_who_is_let_go_for_others_is_dropped_before_there_is_more(expect_log: ExpectLog) -> None:
    async def story(there: World) -> None:
        first, second = connect(there, room=0), connect(there, room=0)
        first.protocol.data_received(LOOKUP)
        waiting = there.shared.overload.waiting
        waiting.most = waiting.bytes
        with expect_log("those are cut off who have kept us for the longest time"):
            second.protocol.data_received(LOOKUP)
        assert first.is_closed, "at once"
        assert first.is_reset
        assert not second.is_closed

        waiting.most = 0
        third = connect(there, room=0)
        third.protocol.data_received(LOOKUP)
        assert second.is_closed
        assert not third.is_closed, "not while it is written to"
        await asyncio.sleep(0)
        assert third.is_closed

    play(story)


def test_who_is_let_go_while_he_is_told_that_there_is_room_goes_in_the_end(expect_log: ExpectLog) -> None:
    async def story(there: World) -> None:
        transport = connect(there, room=0)
        transport.protocol.data_received(LOOKUP + b"POST /register HTTP/1.1\r\nHost: h\r\nContent-Length: 900\r\n\r\n")
        for _ in range(3):
            transport.protocol.data_received(b" " * 250)
        waiting = there.shared.overload.waiting
        waiting.most = 600
        with expect_log("more than 600 bytes wait"):
            transport.drain()  # so that the handler of the second request gets its parts
            await until(lambda: transport.is_lost, "it is let go")
        assert waiting.let_go == 1, "once"
        assert waiting.bytes == 0

    play(story)


def test_what_a_slow_reader_takes_from_the_system_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(there: World) -> None:
        left = iter([900, 800, 800, 700, 700, 700])
        monkeypatch.setattr(connection, "unacknowledged", lambda _: next(left))
        transport = connect(there, room=0)
        transport.protocol.data_received(LOOKUP)
        for is_closed in (False, False, True):
            transport.protocol._timers["unread"]._run()
            assert transport.is_closed == is_closed

    play(story)


def test_a_slow_reader_may_be_slow() -> None:
    async def story(there: World) -> None:
        transport = connect(there, room=0)
        transport.protocol.data_received(LOOKUP)

        def time_is_up() -> None:
            transport.protocol._timers["unread"]._run()

        for _ in range(3):
            transport.room += 1  # it has read something meanwhile
            time_is_up()
            assert not transport.is_closed
        time_is_up()
        assert transport.is_closed
        assert transport.is_reset

    play(story)


def test_headers_over_the_limit_are_not_kept() -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        transport.protocol.data_received(b"GET /livez HTTP/1.1\r\nHost: h\r\n")
        for _ in range(100):
            transport.protocol.data_received(b"a:\r\n" * 250)
            await asyncio.sleep(0)
        assert len(transport.protocol._headers) * 5 <= there.shared.most_header_bytes + 20
        transport.protocol.data_received(b"\r\n")
        assert await answers(transport, 1) == [b"431"]

    play(story)


def test_a_body_behind_too_many_headers_is_no_request() -> None:
    async def story(there: World) -> None:
        for upgrade in (b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"):
            transport = connect(there)
            body = b"DELETE /deregister/i1 HTTP/1.1\r\nHost: h\r\n\r\n"
            head = b"POST /livez HTTP/1.1\r\nHost: h\r\n" + upgrade + b"a:\r\n" * 5000
            transport.protocol.data_received(head)
            transport.protocol.data_received(b"Content-Length: %d\r\n\r\n" % len(body) + body + BEAT)
            while not transport.has_ended and len(statuses(transport)) < 2:
                await asyncio.sleep(0)
            assert statuses(transport) == ([b"400"] if upgrade else [b"431", b"200"])
            transport.lose()
        assert there.registry.lease("i1")

    play(story)


def test_empty_lines_between_hot_calls_do_not_add_up() -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        for n in range(3000):
            transport.protocol.data_received(BEAT)
            transport.protocol.data_received(b"\r\n" * 100)
            assert len(statuses(transport)[-1:]) == 1, n
        assert set(statuses(transport)) == {b"200"}

    play(story)
