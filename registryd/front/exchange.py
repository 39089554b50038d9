"""One request and its answer, as Tornado sees it: the HTTPConnection of a RequestHandler."""

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)

_BODILESS = frozenset({204, 304})


class Peer(NamedTuple):
    """Who is at the other end: its address and protocol by the names under which HTTPServerRequest looks for them, and
    the subject of its certificate, if it has shown one."""

    remote_ip: str
    protocol: str
    subject: str = ""


class Line(Protocol):
    """The connection, as far as one exchange needs it."""

    peer: Peer

    def send(self, data: bytes) -> "Future[None]":
        """Sends bytes; the future is done when there is room for more. It fails where the other side has gone."""

    def abort(self) -> None:
        """Closes the connection at once, with whatever is in its buffers."""

    def reset(self) -> None:
        """The same, and leaves nothing of what is not sent to the system."""

    def ended(self, exchange: "Exchange") -> None:
        """The answer is complete."""

    def ends_with(self, exchange: "Exchange") -> bool:
        """Whether this is the last answer, although the client would go on."""


class Exchange(HTTPConnection):
    """One request on its way in, and the answer on its way out."""

    def __init__(self, line: Line, start: RequestStartLine, headers: HTTPHeaders, *, keep_alive: bool) -> None:
        self._line = line
        self.start = start
        self.headers = headers
        self.context = line.peer
        #: Whether the connection goes on after this.
        self.keep_alive = keep_alive
        #: Whether the client waits to be told to send its body.
        self.asks_first = start.version == "HTTP/1.1" and headers.get("Expect", "").lower() == "100-continue"
        #: Who takes the request's parts, once it is this one's turn.
        self.delegate: HTTPMessageDelegate | None = None
        #: Parts of the body that it has not been given yet, and whether all of them are here.
        self.parts: deque[bytes] = deque()
        self.is_received = False
        #: Whether it has been told that this is all, or is busy with what it was given.
        self.is_delivered = False
        self.is_blocked = False
        #: How far the answer is.
        self.is_begun = False
        self.is_finished = False
        #: Whether the body of the answer goes out in chunks.
        self.is_chunked = False
        self._remaining: int | None = None
        self._close_callback: Callable[[], None] | None = None

    # What Tornado asks of an HTTPConnection.

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Has someone told when the client goes before it has its answer."""
        self._close_callback = callback

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "Future[None]":
        """Sends the head of the answer, and the beginning of its body."""
        assert isinstance(start_line, ResponseStartLine)
        self.is_begun = True
        status, is_1_1 = start_line.code, self.start.version == "HTTP/1.1"
        has_body = self.start.method != "HEAD" and status not in _BODILESS and status >= 200
        is_measured = "Content-Length" in headers
        self.is_chunked = is_1_1 and has_body and not is_measured
        self._remaining = 0 if not has_body else int(headers["Content-Length"]) if is_measured else None
        is_last = headers.get("Connection", "").lower() == "close" or self._line.ends_with(self)
        if is_last or not (is_1_1 or is_measured or not has_body):
            self.keep_alive = False
        if is_1_1 and not self.keep_alive:
            headers["Connection"] = "close"
        elif not is_1_1 and self.keep_alive:
            headers["Connection"] = "Keep-Alive"
        if self.is_chunked:
            headers["Transfer-Encoding"] = "chunked"
        lines = [f"HTTP/1.1 {status} {start_line.reason}"]
        lines += [f"{name}: {value}" for name, value in headers.get_all()]
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
            raise ValueError("a header has a line break in it")
        return self._line.send(head.encode("latin-1") + b"\r\n\r\n" + self._frame(chunk or b""))

    def write(self, chunk: bytes) -> "Future[None]":
        """Sends more of the body."""
        return self._line.send(self._frame(chunk))

    def finish(self) -> None:
        """Ends the answer."""
        if self._remaining:
            self.close()
            raise HTTPOutputError(f"the body is {self._remaining} bytes shorter than its Content-Length")
        if self.is_chunked:
            self._line.send(b"0\r\n\r\n")
        self.is_finished = True
        self._line.ended(self)
        # Both know us: together we would wait for the garbage collector.
        self._close_callback = self.delegate = None

    # What else our own handlers ask for.

    def send_framed(self, data: bytes) -> "Future[None]":
        """Sends more of the body, in chunks already if it `is_chunked`."""
        return self._line.send(data)

    def close(self) -> None:
        """Closes the connection at once, with whatever is in its buffers."""
        self._line.abort()

    def reset(self) -> None:
        """The same, and leaves nothing of what is not sent to the system."""
        self._line.reset()

    # What the connection tells it.

    def closed(self) -> None:
        """The other side has gone, or reads no more."""
        callback, self._close_callback = self._close_callback, None
        delegate, self.delegate = self.delegate, None
        if delegate is not None and not self.is_delivered:
            self.is_delivered = True
            delegate.on_connection_close()
        elif callback is not None:
            callback()

    def _frame(self, chunk: bytes) -> bytes:
        if self._remaining is not None:
            if len(chunk) > self._remaining and self.start.method != "HEAD":
                self.close()
                raise HTTPOutputError("the body is longer than its Content-Length")
            self._remaining -= min(len(chunk), self._remaining)
        if self.is_chunked:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunk else b""
        return chunk


class Later:
    """The place in line of a hot call that is answered later."""

    __slots__ = ("is_finished", "keep_alive")

    #: A hot call is made when all of the request is here.
    is_received = True

    def __init__(self) -> None:
        self.is_finished = False
        self.keep_alive = True

    def closed(self) -> None:
        """The other side has gone, or reads no more: the call is carried out all the same."""


def done_future() -> "Future[None]":
    """A future that is done."""
    future: Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future
