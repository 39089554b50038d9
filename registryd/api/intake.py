"""Stands between the HTTP server and the Application: input is limited here, while it arrives, before it is parsed.

What is over a limit is answered at once. The rest of its body is read and dropped, so that the answer is not lost in
a connection reset and the connection can go on; but not for ever.
"""

import asyncio
import re
from collections.abc import Awaitable
from socket import socket
from ssl import SSLContext
from typing import Any, NoReturn, Protocol, cast
from urllib.parse import unquote

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, SSLIOStream
from tornado.web import Application

from registryd.api import problems
from registryd.api.base import problem_headers, reset, subject_shown, whole_problem
from registryd.api.context import Context
from registryd.core.errors import Unauthorized
from registryd.core.limits import Limits
from registryd.overload import MOST_HEADERS, ON_THE_WAY, unacknowledged
from registryd.traffic import NO_METHOD, NO_ROUTE, Traffic

_HEARTBEAT = re.compile(r"/heartbeat(s|/(?P<id>[^/?]+))/?(\?|$)")
_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
#: Seconds that a connection may wait between two requests, or take for a header block; and for a body.
IDLE_TIMEOUT = 75.0
BODY_TIMEOUT = 30.0
#: How many times the body's limit is read and dropped after a refusal before the connection is closed.
PATIENCE = 8


class Refuse(Protocol):
    """Renders a refusal as a whole answer that closes the connection."""

    def __call__(self, status: int, code: str, detail: str) -> bytes: ...


def refuse(status: int, code: str, detail: str) -> bytes:
    """A whole answer that refuses what is no request, or not yet one, and closes the connection."""
    return whole_problem(problems.Problem(status, code, detail), Connection="close")


def refuse_counted(traffic: Traffic) -> Refuse:
    """The same for a server that refuses by itself what is no request, each time it does."""

    def refuse_one(status: int, code: str, detail: str) -> bytes:
        traffic.note(NO_METHOD, NO_ROUTE, status, None)
        return refuse(status, code, detail)

    return refuse_one


class IntakeServer(HTTPServer):
    """Tornado's HTTP server with an intake between it and the Application; it listens to nothing yet."""

    def initialize(  # type: ignore[override]
        self, application: Application, context: Context, tls: SSLContext | None = None
    ) -> None:
        self._tls = tls
        self._intake = Intake(application, context)
        self._overload = context.overload
        self._arrived: set[object] = set()
        self._under_way = context.under_way
        limits = context.reader.limits
        super().initialize(
            self._intake,
            # The intake limits bodies and headers, with an answer. Tornado would close the connection without one, so
            # its own limits are further out.
            max_body_size=2**62,
            max_header_size=PATIENCE * (limits.header_bytes + limits.url_bytes),
            idle_connection_timeout=IDLE_TIMEOUT,
            body_timeout=BODY_TIMEOUT,
        )
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._connections)

    def take(self, connection: socket, address: Any) -> None:
        """Serves an accepted connection."""
        connection.setblocking(False)
        if self._tls is None:
            stream = IOStream(connection)
        else:
            try:
                wrapped = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it has gone again
                connection.close()
                return
            stream = SSLIOStream(wrapped)
        self._empty.clear()
        self.handle_stream(stream, address)

    def take_tls(self, tls: SSLContext | None) -> None:
        """Serves connections that come from now on so."""
        self._tls = tls

    def take_limits(self, limits: Limits) -> None:
        """Has Tornado's own limits follow ours."""
        self.conn_params.max_header_size = PATIENCE * (limits.header_bytes + limits.url_bytes)

    def wind_down(self, *, at_once: bool = False) -> None:  # noqa: ARG002 - it never looks at what is behind
        """Closes each connection after the answer to the next request on it, which says so."""
        self.conn_params.no_keep_alive = True  # all connections look there, at each request

    def idle(self) -> list[NoReturn]:
        """No connection that could go on without us: bytes of the next request may be in Tornado's buffer."""
        return []

    def tell_idle(self, take: object) -> None:
        """None ever is."""

    async def empty(self) -> None:
        """Waits until no connection is left."""
        await self._empty.wait()

    async def close(self, seconds: float) -> int:  # noqa: ARG002 - what is to be sent is sent: requests are under way until then
        """Closes all connections. Gives back how many were cut off, beyond those with a request under way."""
        await self.close_all_connections()
        return 0

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        if (
            server_conn not in self._arrived
        ):  # Tornado asks for someone to take a request as soon as there is a connection
            self._arrived.add(server_conn)
            victims = self._overload.crowd.arrive(server_conn.context.remote_ip, server_conn, self._is_idle)
            for victim in victims:
                self._overload.lose()  # whether it is about to ask something, Tornado does not tell
                stream = victim.stream
                if self._is_idle(victim) and (stream.closed() or unacknowledged(stream.socket) <= ON_THE_WAY):
                    stream.close()
                else:
                    reset(stream)
        return super().start_request(server_conn, request_conn)

    def _is_idle(self, server_conn: object) -> bool:
        return not self._under_way.is_on(server_conn)

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        self._arrived.discard(server_conn)
        self._overload.crowd.leave(server_conn.context.remote_ip, server_conn)
        self._intake.on_close(server_conn)
        if not self._connections:
            self._empty.set()


class Intake(HTTPServerConnectionDelegate):
    """Takes requests in, in place of the Application, each under the limits that the reader has when it comes."""

    def __init__(self, application: Application, context: Context) -> None:
        self._application = application
        self._context = context

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Tornado's way to ask for someone who takes a request's parts as they arrive."""
        inner = self._application.start_request(server_conn, request_conn)
        return _Message(inner, request_conn, server_conn, self._context)

    def on_close(self, server_conn: object) -> None:
        """A connection has closed."""
        # A server forgets who waits for an answer to be sent when the connection is closed from the other side.
        self._context.under_way.end_all(server_conn)


class _Message(HTTPMessageDelegate):
    """Passes one request on to `inner` until it is over a limit."""

    def __init__(
        self,
        inner: HTTPMessageDelegate,
        request: HTTPConnection,
        connection: object,
        context: Context,
    ) -> None:
        self._inner: HTTPMessageDelegate | None = inner
        self._request = request
        self._connection = connection
        self._context = context
        self._limits = context.reader.limits
        self._under_way = context.under_way
        self._waiting = context.overload.waiting
        self._received = 0
        self._method = ""
        self._answered = False
        #: Whether nobody waits for an answer any more. Tornado may go on for a while with what it has of the body.
        self._is_given_up = False

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        absolute = _ABSOLUTE.match(start_line.path)
        if absolute is not None:
            # RFC 9112, 3.2.2: a server takes the absolute form, too, as a proxy gets it. The host in it is the one that
            # counts then, for what Host may be asked for as well; that there is one Host is checked all the same.
            path = start_line.path[absolute.end() :]
            start_line = start_line._replace(path=path if path.startswith("/") else "/" + path)
            if len(headers.get_list("Host")) == 1:
                headers["Host"] = absolute[1]
        self._limits = self._context.reader.limits  # Tornado has us wait for a request on every connection that is idle
        self._under_way.begin(self._request, self._connection)
        self._method = start_line.method
        refusal = self._refusal(start_line, headers)
        if refusal is not None:
            self._refuse(refusal, headers, closes=_has_odd_chunks(start_line, headers))
            return None
        # The body is JSON whatever it says it is (curl says it is a form), so Tornado must not parse it as a form.
        headers["Content-Type"] = "application/json"
        assert self._inner is not None
        try:
            return self._inner.headers_received(start_line, headers)
        except HTTPInputError as error:
            self._refuse(error, headers)
            return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._is_given_up:
            return None
        self._received += len(chunk)
        if self._inner is None:
            if self._received > PATIENCE * self._limits.body_bytes:
                self._end()
            return None
        if self._received > self._limits.body_bytes:
            self._inner.on_connection_close()  # so it drops what it has
            self._waiting.release(self)
            self._refuse(self._body_too_large(), HTTPHeaders())
            return None
        self._waiting.hold(self, self._received, self._let_go)
        return None if self._is_given_up else self._inner.data_received(chunk)

    def _let_go(self) -> None:
        """Too much waits, and this request does for the longest time."""
        self._is_given_up = True
        self._context.overload.lose()
        cast("Any", self._request).close()

    def finish(self) -> None:
        if self._is_given_up:
            return
        self._waiting.release(self)
        self._under_way.arrived(self._request)
        if self._inner is None:
            self._end()
        else:
            self._inner.finish()

    def on_connection_close(self) -> None:
        self._is_given_up = True
        self._waiting.release(self)
        self._under_way.end(self._request)
        if self._inner is not None:
            self._inner.on_connection_close()

    def _refusal(self, start_line: RequestStartLine, headers: HTTPHeaders) -> Exception | None:
        limits = self._limits
        if _has_odd_chunks(start_line, headers):
            return HTTPInputError("there are no chunks in HTTP/1.0")
        if len(start_line.path) > limits.url_bytes:
            return problems.UrlTooLong("URL", "url_bytes", limits.url_bytes)
        if sum(len(name) + len(value) + 4 for name, value in headers.get_all()) > limits.header_bytes:
            return problems.HeadersTooLarge("header block", "header_bytes", limits.header_bytes)
        if sum(1 for _ in headers.get_all()) > MOST_HEADERS:
            return problems.TooManyHeaders()
        if _announced(headers) > limits.body_bytes:
            return self._body_too_large()
        coding = headers.get("Content-Encoding", "identity")
        if coding.strip().lower() not in ("", "identity") and start_line.method not in ("GET", "HEAD"):
            return problems.UnsupportedEncoding(coding)
        return self._too_often(start_line, headers)

    def _too_often(self, start_line: RequestStartLine, headers: HTTPHeaders) -> Exception | None:
        """Why a request is refused whose address makes too many; None, where it does not, or keeps a lease by it."""
        rates, address = self._context.overload.rates, cast("Any", self._request).context.remote_ip
        if not rates.most or self._is_heartbeat(start_line, headers, address) or rates.take(address):
            return None
        rates.refuse(address)
        if _HEARTBEAT.match(start_line.path):  # where many share an address, it may be of one who keeps a lease by it
            self._context.overload.lose()
        return problems.TooManyRequests(rates.most)

    def _is_heartbeat(self, start_line: RequestStartLine, headers: HTTPHeaders, address: str) -> bool:
        """Whether a lease may end if this is refused: one that the caller may renew, or else he would learn of it."""
        found = _HEARTBEAT.match(start_line.path)
        if found is None or start_line.method != "POST":
            return False
        if found["id"] is None:
            return self._context.overload.rates.keeps_leases(address)
        try:
            caller = self._context.access.caller(headers.get("Authorization"), subject_shown(self._request))
        except Unauthorized:
            return False
        return self._context.registry.may_renew(unquote(found["id"]), caller)

    def _body_too_large(self) -> Exception:
        return problems.BodyTooLarge("body", "body_bytes", self._limits.body_bytes)

    def _refuse(self, error: Exception, request_headers: HTTPHeaders, *, closes: bool = False) -> None:
        self._inner = None
        problem = problems.problem_of(error)
        self._context.traffic.note(self._method, NO_ROUTE, problem.status, None)
        body = problem.render()
        headers = HTTPHeaders(problem_headers(problem, body))
        # A client that asks before it sends its body has none on the way: the connection can be closed cleanly now,
        # and must be, as Tornado would go on to ask for the body. One that sends too much to be read is told so.
        asks_first = request_headers.get("Expect", "").lower() == "100-continue"
        closes = closes or asks_first
        if closes or _announced(request_headers) > PATIENCE * self._limits.body_bytes:
            headers["Connection"] = "close"
        line = ResponseStartLine("HTTP/1.1", problem.status, problem.title)
        self._sent = self._request.write_headers(line, headers, b"" if self._method == "HEAD" else body)
        if closes:
            self._end()

    def _end(self) -> None:
        """Ends a refused request. Tornado closes the connection where the body has not been read to its end."""
        if not self._answered:
            self._answered = True
            self._sent.add_done_callback(lambda _: self._under_way.end(self._request))
            self._request.finish()


def _has_odd_chunks(start_line: RequestStartLine, headers: HTTPHeaders) -> bool:
    """Whether a proxy that knows HTTP/1.0 only has seen another body than we do: RFC 9112, 6.1."""
    return start_line.version == "HTTP/1.0" and "Transfer-Encoding" in headers


def _announced(headers: HTTPHeaders) -> int:
    """The length of the body that is to come, as far as it is said. Tornado refuses what is not a number."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
