"""Random bytes and mutated requests: the front never raises, hangs or grows, and afterwards it serves as before."""

import asyncio
import gc
import logging

from hypothesis import given, settings
from hypothesis import strategies as st
from support import a_registration
from world import connect, until, world

from registryd.front.connection import MOST_WAITING

LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
SEEDS = [
    LIVE,
    b"GET /services/users HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /heartbeat/i1 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"HEAD /services HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b'POST /register HTTP/1.1\r\nHost: h\r\nContent-Length: 46\r\n\r\n{"service_name":"users","base_url":"http://h"}',
    b"POST /register HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /drain/i1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET /services?index=1&wait=10ms HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /watch HTTP/1.1\r\nHost: h\r\n\r\n",
    b"DELETE /deregister/i2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
]
BITS = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b":",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"HTTP/1.1",
    b"Host: h\r\n",
]
BITS += [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\xff", b"%", b"/", b"Expect: 100-continue\r\n"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Some requests, with pieces taken out, put in twice, or replaced."""
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        new = draw(st.one_of(st.sampled_from(BITS), st.binary(max_size=5), st.just(data[start:end] * 2)))
        data = data[:start] + new + data[end:]
    return data


async def shake(data: bytes, cuts: list[int], room: int, how_it_ends: str) -> None:
    async with world("front") as there:
        await there.registry.register(a_registration())
        transport = connect(there, room)
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if not transport.is_lost:
                transport.protocol.data_received(data[start:end])
                assert transport.protocol._waiting <= 2 * MOST_WAITING
                await asyncio.sleep(0)
        transport.drain()
        if how_it_ends == "half open" and not transport.is_lost:
            if not transport.protocol.eof_received():
                transport.close()
            await until(lambda: transport.is_lost or transport.is_paused or transport.has_ended, "an end")
        transport.lose()
        protocol = transport.protocol
        await until(lambda: not len(there.under_way), "nothing is under way")
        assert not protocol._exchanges
        assert not protocol._timers
        assert protocol._current is None or protocol._current.is_received
        assert not protocol._unparsed

        again = connect(there)
        again.protocol.data_received(LIVE)
        await until(lambda: again.written.endswith(b"\r\n\r\nok\n"), "the next connection is served")
        again.lose()


def shaken(data: bytes, cuts: list[int], room: int, how_it_ends: str) -> None:
    records: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        asyncio.run(shake(data, sorted(min(cut, len(data)) for cut in cuts), room, how_it_ends))
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in records] == []


HOW = {
    "cuts": st.lists(st.integers(0, 400), max_size=6),
    "room": st.sampled_from([2**30, 0, 200]),
    "how_it_ends": st.sampled_from(["half open", "gone"]),
}


@settings(max_examples=300)
@given(data=st.binary(max_size=300), **HOW)
def test_random_bytes(data: bytes, cuts: list[int], room: int, how_it_ends: str) -> None:
    shaken(data, cuts, room, how_it_ends)


@settings(max_examples=600)
@given(data=mutated(), **HOW)
def test_mutated_requests(data: bytes, cuts: list[int], room: int, how_it_ends: str) -> None:
    shaken(data, cuts, room, how_it_ends)


def test_nothing_of_a_connection_is_left_for_the_garbage_collector() -> None:
    async def story() -> None:
        async with world("front") as there:
            await there.registry.register(a_registration())
            for data in SEEDS:
                transport = connect(there)
                transport.protocol.data_received(data)
                for _ in range(20):
                    await asyncio.sleep(0)
                transport.lose()
                del transport.protocol  # as a real transport does
            await until(lambda: not len(there.under_way), "nothing is under way")
            del transport
            left = [one for one in gc.get_objects() if type(one).__name__ in ("Connection", "HttpRequestParser")]
            assert [one for one in left if type(one).__module__.startswith(("registryd.front", "httptools"))] == []

    gc.collect()
    gc.disable()
    try:
        asyncio.run(story())
    finally:
        gc.enable()
