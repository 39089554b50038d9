"""HTTP as bytes: what a test sends is what goes over the wire."""

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import NamedTuple, Self

import pytest
from tornado.web import Application

from registryd.listeners import Acceptor, listen
from registryd.server import HttpServer


class Served:
    """An HTTP server as the daemon makes it, intake included, on a socket of the test's own."""

    def __init__(self, http: HttpServer, application: Application, sock: socket.socket) -> None:
        self.http = http
        self.application = application
        #: pytest-tornasync's client looks here.
        self._sockets: dict[int, socket.socket] = {}
        self._start(sock)

    def _start(self, sock: socket.socket) -> None:
        self._sockets[sock.fileno()] = sock
        self._acceptor = Acceptor([sock], self.http.take)
        self._acceptor.start()

    def listen(self, port: int) -> None:
        self._start(listen("127.0.0.1", port)[0])

    def stop_listening(self) -> None:
        if self._sockets:
            self._acceptor.stop()
            self._sockets.clear()

    async def hang_up(self) -> None:
        await self.http.close(5)
        assert len(self.http) == 0, "no connection is left"


_STATUS_LINE = b"HTTP/1.1 "


class RawAnswer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def answers_in(data: bytes) -> tuple[list[RawAnswer], bytes]:
    """The answers that these bytes are, one after the other, and what there is of one that is not all here. A body that
    does not come is one that HEAD has asked for. Raises ValueError for what is no answer."""
    found = []
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end and _STATUS_LINE.startswith(data[: len(_STATUS_LINE)]):
            break
        line, *lines = head.split(b"\r\n")
        if not line.startswith(_STATUS_LINE) or not line[9:12].isdigit() or any(b": " not in one for one in lines):
            raise ValueError(f"this is no answer: {data[:100]!r}")
        headers = {name.decode(): value.decode("latin-1") for name, _, value in (one.partition(b": ") for one in lines)}
        status = int(line[9:12])
        is_empty = status in (100, 204, 304) or rest.startswith(_STATUS_LINE)
        body, rest = (b"", rest) if is_empty else _body(headers, rest)
        if body is None:
            break
        data = rest
        found.append(RawAnswer(status, headers, body))
    return found, data


def _body(headers: dict[str, str], data: bytes) -> tuple[bytes | None, bytes]:
    """A body and what is behind it; None where it is not all here."""
    if "Content-Length" in headers:
        length = int(headers["Content-Length"])
        if not data:
            return b"", b""
        return (data[:length], data[length:]) if len(data) >= length else (None, data)
    if "Transfer-Encoding" not in headers:  # its end is that of the connection
        return data, b""
    body = b""
    while data:
        size, end, rest = data.partition(b"\r\n")
        length = int(size, 16) if end else 0
        if not end or len(rest) < length + 2:
            break
        if rest[length : length + 2] != b"\r\n":
            raise ValueError(f"this is no chunk: {data[:100]!r}")
        body, data = body + rest[:length], rest[length + 2 :]
        if not length:
            return body, data
    return None, data


class Wire:
    """A connection to the server under test: `async with Wire(http_server) as wire:`"""

    def __init__(self, server: Served, *, small_buffers: bool = False) -> None:
        (sock,) = server._sockets.values()
        self._port = sock.getsockname()[1]
        self._small_buffers = small_buffers

    async def __aenter__(self) -> Self:
        sock = socket.socket()
        if self._small_buffers:  # so that the other side soon has to wait for us
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=2**24)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hang_up()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self, *, head: bool = False) -> RawAnswer:
        """The next answer, whole."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        status = int(lines[0].split()[1])
        length = 0 if head or status in (100, 204, 304) else int(headers["Content-Length"])
        return RawAnswer(status, headers, await self._reader.readexactly(length))

    async def read_until(self, end: bytes) -> bytes:
        """All that comes up to and with `end`."""
        return await self._reader.readuntil(end)

    async def read_exactly(self, count: int) -> bytes:
        """So many bytes."""
        return await self._reader.readexactly(count)

    def pause(self) -> None:
        """Does not read any more."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Reads again."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def rest(self) -> bytes:
        """All that comes until the server closes the connection."""
        return await self._reader.read()

    async def cut_off(self) -> None:
        """Waits until the server closes the connection, in whichever way."""
        with contextlib.suppress(ConnectionError):
            await self._reader.read()

    async def was_reset(self) -> None:
        """Waits until the server resets the connection: so it has left nothing to the system."""
        self.resume()
        with pytest.raises(ConnectionResetError):
            await self._reader.read()

    async def hang_up(self) -> None:
        """Closes the connection, whatever is on the way."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):  # the server may have been first
            await self._writer.wait_closed()
