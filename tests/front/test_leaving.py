"""Connections at a stop: those that are idle can go on without us, and the others close with an answer that says so."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from raw import RawAnswer, Wire
from support import a_registration
from world import MemoryTransport, World, connect, until, world

from registryd.core.limits import Limits
from registryd.listeners import take_back
from registryd.server import Idle

LOOKUP = b"GET /services/users HTTP/1.1\r\nHost: h\r\n\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
WAIT = b"GET /services/users?index=%d&wait=1m HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /register HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n"
BODY = b'{"service_name":"users","base_url":"http://h","instance_id":"a"}'
REGISTER = b"POST /register HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def play(
    story: Callable[[World], Awaitable[None]],
    kind: str = "front",
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> None:
    """Runs a story in a world with one registered instance."""

    async def whole() -> None:
        async with world(kind, Limits()) as there:
            await there.registry.register(a_registration())
            await story(there)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(whole())


def leave(there: World) -> list[int]:
    """Lets go of all that is idle; gives back descriptors under which it goes on."""
    idle = there.http.idle()
    copies = [os.dup(connection.fileno()) for connection in idle]
    for connection in idle:
        connection.let_go()
    return copies


def take(there: World, descriptors: list[int]) -> None:
    for descriptor in descriptors:
        taken = take_back(descriptor)
        assert taken is not None
        there.http.take(*taken)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("request_bytes", [LOOKUP, LIVE], ids=["hot", "handler"])
def test_an_idle_connection_goes_on_elsewhere(loop: str, request_bytes: bytes) -> None:
    async def story(there: World) -> None:
        async with Wire(there.served) as used, Wire(there.served) as new:
            await used.send(request_bytes)
            assert (await used.answer()).status == 200
            await until(lambda: len(there.http.idle()) == 2, "both are idle")
            copies = leave(there)
            await there.http.empty()
            await used.send(request_bytes)  # while nobody is there
            await new.send(request_bytes[:5])

            take(there, copies)
            assert (await used.answer()).status == 200
            await new.send(request_bytes[5:])
            assert (await new.answer()).status == 200

    play(story, loop_factory=LOOPS[loop])


@pytest.mark.parametrize("loop", LOOPS)
def test_closing_our_copy_sends_nothing(loop: str) -> None:
    async def story(there: World) -> None:
        async with Wire(there.served) as wire:
            await until(lambda: len(there.http.idle()) == 1, "it is idle")
            (copy,) = leave(there)
            await there.http.empty()
            with socket.socket(fileno=copy) as sock:
                sock.sendall(b"still open")
                assert await wire.read_exactly(10) == b"still open"
            assert await wire.rest() == b""

    play(story, loop_factory=LOOPS[loop])


@pytest.mark.parametrize(
    "begun", [LOOKUP[:1], LOOKUP[:-1], POST, POST + b"{", LIVE, LIVE + LIVE[:5]], ids=lambda begun: repr(begun[-9:])
)
def test_what_is_in_the_middle_of_something_stays(begun: bytes) -> None:
    async def story(there: World) -> None:
        transport = connect(there)
        assert len(there.http.idle()) == 1
        transport.protocol.data_received(begun)
        assert there.http.idle() == []

    play(story)


def test_what_is_not_whole_or_not_read_stays() -> None:
    async def story(there: World) -> None:
        waiting, unread, half_open, leaving = (connect(there, room) for room in (2**30, 10, 2**30, 2**30))
        waiting.protocol.data_received(WAIT % there.registry.index("users"))
        await until(lambda: there.registry.feed.watchers, "the long poll")
        unread.protocol.data_received(LOOKUP)
        half_open.protocol.data_received(WAIT % there.registry.index("users"))
        half_open.protocol.eof_received()
        leaving.protocol.data_received(b"nonsense\r\n\r\n")
        assert there.http.idle() == []

        unread.drain()
        await there.registry.register(a_registration(instance_id="i2"))
        await until(lambda: len(there.http.idle()) == 2, "the two that go on")

    play(story)


def answers(transport: MemoryTransport) -> list[bool]:
    """For each answer whether it closes the connection."""
    return [b"\r\nConnection: close\r\n" in part for part in bytes(transport.written).split(b"HTTP/1.1 200")[1:]]


def test_while_winding_down_the_last_of_the_answers_closes() -> None:
    async def story(there: World) -> None:
        one, three, waiting, begun = (connect(there) for _ in range(4))
        one.protocol.data_received(LOOKUP)
        waiting.protocol.data_received(WAIT % there.registry.index("users"))
        begun.protocol.data_received(LOOKUP[:9])
        await until(lambda: there.registry.feed.watchers, "the long poll")
        there.http.wind_down()

        one.protocol.data_received(LOOKUP)
        three.protocol.data_received(LOOKUP + LIVE + LOOKUP)
        begun.protocol.data_received(LOOKUP[9:])
        await there.registry.register(a_registration(instance_id="i2"))
        leaving = (one, three, waiting, begun)
        await until(lambda: all(transport.is_lost for transport in leaving), "all are closed")
        assert answers(one) == [False, True]
        assert answers(three) == [False, False, True]
        assert answers(waiting) == answers(begun) == [True]
        await there.http.empty()

    play(story)


@pytest.mark.parametrize("kind", ["front", "tornado"])
def test_while_winding_down_each_connection_gets_its_answer(kind: str) -> None:
    async def story(there: World) -> None:
        async with Wire(there.served) as used, Wire(there.served) as new:
            for request in (LOOKUP, LIVE):
                await used.send(request)
                assert not closes(await used.answer())
            there.http.wind_down()
            for wire, request in ((used, LOOKUP), (new, LIVE)):
                await wire.send(request)
                answer = await wire.answer()
                assert answer.status == 200
                assert closes(answer)
                assert await wire.rest() == b""
        await there.http.empty()
        assert len(there.http) == 0

    play(story, kind)


def closes(answer: RawAnswer) -> bool:
    return answer.headers.get("Connection") == "close"


@pytest.mark.parametrize("kind", ["front", "tornado"])
def test_limits_can_change_while_connections_are_open(kind: str) -> None:
    async def story(there: World) -> None:
        async with Wire(there.served) as wire:
            statuses = []
            for most in (100, 10, 100):
                limits = Limits(url_bytes=most)
                there.reader.take_limits(limits)
                there.http.take_limits(limits)
                for request in (LOOKUP, LOOKUP):
                    await wire.send(request)
                    statuses.append((await wire.answer()).status)
            assert statuses == [200, 200, 414, 414, 200, 200]

    play(story, kind)


def test_a_hot_call_under_way_says_that_it_is_the_last() -> None:
    async def story(there: World) -> None:
        there.store.hold()
        one, behind = connect(there), connect(there)
        one.protocol.data_received(REGISTER)
        behind.protocol.data_received(REGISTER.replace(b'"a"', b'"b"') + LIVE)
        await there.store.waiting.wait()
        there.http.wind_down()
        there.store.release()
        await until(lambda: one.is_lost and behind.is_lost, "both are closed")
        assert answers(one) == [True]
        assert answers(behind) == [False, True]
        assert bytes(one.written).endswith(b"}\n")

    play(story)


def test_who_always_has_asked_for_more_is_closed_when_there_is_no_more_time() -> None:
    async def story(there: World) -> None:
        there.store.hold()
        transport = connect(there)
        transport.protocol.data_received(REGISTER + LIVE * 3 + LIVE[:9])
        await there.store.waiting.wait()
        there.http.wind_down()
        there.http.wind_down(at_once=True)
        there.store.release()
        await until(lambda: transport.has_ended, "its end")
        assert answers(transport) == [True]
        assert not transport.is_closed, "or what it has sent would take its answer back"
        transport.lose()

    play(story)


def test_who_goes_while_his_answer_is_under_way_is_no_fault() -> None:
    async def story(there: World) -> None:
        there.store.hold()
        gone = [connect(there), connect(there)]
        gone[0].protocol.data_received(REGISTER)
        gone[1].protocol.data_received(b"POST /drain/i1 HTTP/1.1\r\nHost: h\r\n\r\n")
        await there.store.waiting.wait()
        there.http.wind_down()
        for transport in gone:
            transport.lose()
        there.store.release()
        await until(lambda: not len(there.under_way), "nobody is waited for")

    play(story)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("has_room", [True, False])
def test_each_connection_goes_as_soon_as_it_is_idle_if_there_is_room(loop: str, has_room: bool) -> None:
    async def story(there: World) -> None:
        copies: list[int] = []

        def take_it(connection: Idle) -> bool:
            if has_room:
                copies.append(os.dup(connection.fileno()))
                connection.let_go()
            return has_room

        there.store.hold()
        async with Wire(there.served) as wire:
            await wire.send(REGISTER + LIVE)
            await there.store.waiting.wait()
            there.http.tell_idle(take_it)
            there.store.release()
            for _ in range(2):
                assert (await wire.answer()).status == 200
            await wire.send(LIVE)
            if has_room:
                await until(lambda: copies or there.http.idle(), "it is idle")
                copies += leave(there)
                await there.http.empty()
            there.http.tell_idle(None)
            take(there, copies)
            assert (await wire.answer()).status == 200, "by whoever has it now"

    play(story, loop_factory=LOOPS[loop])
