"""What is almost HTTP, and a front that gets it in pieces: for those who try what comes of it."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from raw import answers_in
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


#: What may be answered, whatever was sent: never a 500.
STATUSES = {100, 200, 204, 304, 400, 403, 404, 405, 408, 409, 413, 414, 415, 421, 429, 431, 501, 503}


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def nothing_logged() -> Iterator[None]:
    """Fails where there is a warning or an error in the log."""
    records = _Records()
    logging.getLogger().addHandler(records)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(records)
    assert records.messages == []


async def _shake(data: bytes, cuts: list[int], room: int, how_it_ends: str) -> None:
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
        statuses = {answer.status for answer in answers_in(bytes(transport.written))[0]}
        assert statuses <= STATUSES
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
    """Sends bytes to a front, cut there, by a connection that takes so many bytes in return and ends in this way. The
    front answers what it can, tells the log of nothing, keeps nothing, and serves the next connection."""
    with nothing_logged():
        asyncio.run(_shake(data, sorted(min(cut, len(data)) for cut in cuts), room, how_it_ends))
