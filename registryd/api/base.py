"""What all handlers share: how a call is declared, answered and refused."""

import asyncio
import functools
import inspect
import logging
import re
import time
from asyncio import Future
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple, cast

from msgspec import Struct
from tornado.http1connection import HTTP1Connection
from tornado.httputil import format_timestamp
from tornado.iostream import IOStream, SSLIOStream
from tornado.web import HTTPError, RequestHandler

from registryd import __version__
from registryd.api import problems, render
from registryd.api.context import Context
from registryd.api.hosts import ForeignOrigin, UnknownHost
from registryd.api.reader import Nothing
from registryd.auth import Access
from registryd.core.access import EVERYONE, Right
from registryd.core.errors import ECHO, Forbidden, HiddenInstance, Recovering, RegistrydError, Unauthorized
from registryd.core.model import Origin
from registryd.overload import forget_unsent
from registryd.tls import subject_of
from registryd.traffic import NO_ROUTE

logger = logging.getLogger(__name__)

SERVER = f"registryd/{__version__}"

#: Seconds that a client may leave an answer unread before it is cut off.
UNREAD_TIMEOUT = 30.0

#: No browser is to take for a page what is none, whatever is in it.
NOT_A_PAGE = ("X-Content-Type-Options", "nosniff")

_PART = re.compile(r"\([^)]*\)")
_VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


#: What a request is counted as whose client has not waited for the answer: nginx's number for it.
GONE = 499

#: What a call gives back that has answered by itself.
ANSWERED = object()


class Declared(NamedTuple):
    """What a call takes and how it answers: the shape of a 200 (a type, or a list of one), and the statuses of its
    refusals."""

    query: type[Struct]
    body: type[Struct]
    answer: Any
    refusals: tuple[int, ...]
    media_type: str
    #: Of these rights one is needed; none are, where there is none.
    needs: tuple[Right, ...]


class ReaderGone(Exception):
    """The client has closed the connection while it waited: there is nobody left to answer."""


def problem_headers(problem: problems.Problem, body: bytes) -> dict[str, str]:
    """The headers of a problem's answer, in the order in which a handler sends them."""
    own = {"Server": SERVER, "Content-Type": problems.CONTENT_TYPE, "Date": format_timestamp(time.time())}
    return {**own, NOT_A_PAGE[0]: NOT_A_PAGE[1], **problem.headers, "Content-Length": str(len(body))}


def whole_problem(problem: problems.Problem, **more: str) -> bytes:
    """A problem as a whole answer, with more headers."""
    body = problem.render()
    headers = problem_headers(problem, body) | more
    lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def log_fault(request: str, error: BaseException | None) -> None:
    """A fault of our own goes into the log with its stack. A client's fault is the client's to know."""
    if error is not None and problems.status_of(error) == 500:
        logger.error("failed request=%s", request, exc_info=error, extra={"event": "failed", "request": request})


#: What is refused for who asks, or for whose page has asked.
REFUSALS = (Unauthorized, Forbidden, HiddenInstance, UnknownHost, ForeignOrigin)


def note_refusal(access: Access, error: RegistrydError, address: str, request: str) -> None:
    """Counts a request that was refused for who asks, and tells the log. Masses of them it sums up."""
    access.refused["unauthorized" if isinstance(error, Unauthorized) else "forbidden"] += 1
    request = request[: 2 * ECHO]
    fields = {"peer": address, "request": request, "reason": str(error)}
    logger.warning("refused peer=%s request=%s: %s", address, request, error, extra={"event": "refused", **fields})


def subject_shown(connection: Any) -> str:
    """The subject of the certificate that whoever asks on an HTTPConnection has shown; empty where there is none."""
    if not isinstance(connection, HTTP1Connection):
        return str(connection.context.subject)
    stream = connection.stream
    if not isinstance(stream, SSLIOStream) or stream.closed():  # it has gone again
        return ""
    return subject_of(stream.socket.getpeercert())


def reset(stream: IOStream) -> None:
    """Closes a connection of Tornado's server at once, and leaves nothing of what is not sent to the system."""
    if not stream.closed():
        forget_unsent(stream.socket)
        stream.close()


class Handler(RequestHandler):
    """Base of all handlers. A verb is a method under `@call`; it gives back what is to be rendered as JSON."""

    _index: int | None = None
    _etag: str | None = None
    #: Whether the client has gone before it had its answer, and what to do then.
    _is_gone = False
    _on_gone: Callable[[], object] | None = None
    #: Seconds for which whoever asks wanted to wait.
    _waited = 0.0
    #: Its path, with names in place of what may stand there.
    route = NO_ROUTE

    def initialize(self, context: Context) -> None:
        self.registry = context.registry
        self.reader = context.reader
        self.daemon = context.daemon
        self._under_way = context.under_way
        self.access = context.access
        self._hosts = context.hosts
        self.overload = context.overload
        self._traffic = context.traffic
        self._begun = perf_counter()
        #: Who asks, as far as his rights go.
        self.caller = EVERYONE

    def set_default_headers(self) -> None:
        # Tornado calls this for an error too, after it has thrown away all other headers.
        self.set_header("Server", SERVER)
        self.set_header(*NOT_A_PAGE)
        if self._index is not None:
            self.set_header("Registry-Index", str(self._index))

    def options(self, *path: str) -> None:  # noqa: ARG002 - Tornado passes the path's parts
        """Says what the path can do."""
        self.set_header("Allow", self._allow())
        self.set_status(204)

    def take_index(self, index: int, *, etag: bool = False) -> None:
        """Says how current the answer is, and makes that its (weak) ETag where it is a list."""
        self._index = index
        self.set_header("Registry-Index", str(index))
        if etag:
            self._etag = f'W/"{index}"'

    def compute_etag(self) -> str | None:
        # Tornado compares it with If-None-Match and answers 304 by itself.
        return self._etag

    @property
    def origin(self) -> Origin:
        """Who asks."""
        return Origin(self.request.remote_ip or "", self.request.headers.get("User-Agent", "")[:256], self.caller)

    @property
    def gives(self) -> bool:
        """Whether whoever asks gets to see what is answered."""
        return self.request.method != "HEAD"

    def identify(self, needs: tuple[Right, ...]) -> None:
        """Finds out who asks, before anything else is looked at. Raises UnknownHost, ForeignOrigin, Unauthorized,
        Forbidden."""
        headers, self._needs = self.request.headers, needs
        self._hosts.check(self.request.method or "", headers.get("Host"), headers.get("Origin"))
        self.caller = self.access.caller(headers.get("Authorization"), subject_shown(self.request.connection))
        self.caller.must_have(*needs)

    def must_know(self) -> None:
        """For whoever is to be told which instances there are. Raises Recovering while nobody can know."""
        if self.registry.is_recovering:
            raise Recovering

    async def wait_for(self, is_due: Callable[[], bool], service_name: str | None, seconds: float) -> bool:
        """Waits until `is_due`, looking anew at each change to a service (None: to anything), but not for longer than
        `seconds`, nor after the daemon has begun to stop. Gives back whether it is. Raises LimitReached, ReaderGone."""
        if is_due() or seconds <= 0:
            return is_due()
        with self.waiting():
            is_so = await self._wait_for(is_due, service_name, seconds)
        self.identify(self._needs)  # he may have less rights by now
        return is_so

    async def _wait_for(self, is_due: Callable[[], bool], service_name: str | None, seconds: float) -> bool:
        feed, loop = self.registry.feed, asyncio.get_running_loop()
        end = loop.time() + seconds
        with feed.seat():
            while not feed.is_closing:
                changed = feed.changed(service_name)
                try:
                    self.when_gone(changed.cancel)
                    if not is_due():
                        await asyncio.wait({changed}, timeout=end - loop.time())
                finally:
                    feed.forget(service_name, changed)
                if changed.cancelled():
                    raise ReaderGone
                if is_due() or not changed.done():
                    break
        return is_due()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done meanwhile takes as long as whoever asks wants it to."""
        begun = perf_counter()
        try:
            yield
        finally:
            self._waited += perf_counter() - begun

    def note_answer(self) -> None:
        """Has the answer counted. Tornado calls this at its end, in place of a line in a log."""
        seconds = perf_counter() - self._begun - self._waited
        self._traffic.note(self.request.method or "", self.route, self.get_status(), seconds)

    def hang_up(self) -> None:
        """Closes the connection: there is nobody who could read an answer."""
        self.set_status(GONE, "Client Closed Request")  # which nobody gets to see either, but it is counted so
        cast("Any", self.request.connection).close()

    def when_gone(self, do: Callable[[], object]) -> None:
        """Has something done when the client goes before it has its answer; at once, where it has gone already."""
        self._on_gone = do
        if self._is_gone:
            do()

    def on_connection_close(self) -> None:
        self._is_gone = True
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone()

    def reply(self, value: object) -> None:
        """Answers 200 with a value as JSON (rendered already, where it is bytes), or with plain text."""
        if isinstance(value, str):
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.write(value)
        else:
            self.set_header("Content-Type", "application/json")
            self.write(value if isinstance(value, bytes) else render.json_bytes(value))

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "Future[None]":
        request = self.request.connection
        self._on_gone = None
        sent = super().finish(chunk)
        if sent.done():
            self._under_way.end(request)
            return sent
        sent.add_done_callback(lambda _: self._under_way.end(request))
        if isinstance(request, HTTP1Connection):
            cut_off = functools.partial(reset, request.stream)
            timer = asyncio.get_running_loop().call_later(UNREAD_TIMEOUT, cut_off)
            sent.add_done_callback(lambda _: timer.cancel())
            self.overload.waiting.hold(request, int(self._headers.get("Content-Length", "0")), cut_off)
            sent.add_done_callback(lambda _: self.overload.waiting.release(request))
        return sent

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:  # noqa: ARG002 - the error knows them
        log_fault(f"{self.request.method} {self.request.uri}", value)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        super().send_error(status_code if error is None else problems.status_of(error), **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1] or HTTPError(status_code)
        if isinstance(error, REFUSALS):
            note_refusal(self.access, error, self.origin.address, f"{self.request.method} {self.request.path}")
        if status_code == 405:
            self.set_header("Allow", self._allow())
        problem = problems.problem_of(error)
        for name, value in problem.headers.items():
            self.set_header(name, value)
        self.set_header("Content-Type", problems.CONTENT_TYPE)
        self.finish(problem.render())

    def _allow(self) -> str:
        there = [verb for verb in _VERBS if hasattr(getattr(self, verb.lower()), "declared")]
        return ", ".join([*there, "OPTIONS"])


#: Patterns of paths, each with its handler and what that is given.
Routes = Iterable[tuple[str, type[Handler], dict[str, Any]]]


def path_parameters(method: Callable[..., Any]) -> list[str]:
    """The names of the parts of its path that a verb takes."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]


def template(pattern: str, names: Iterable[str]) -> str:
    """`/heartbeat/([^/]+)/?` -> `/heartbeat/{instance_id}`"""
    given = iter(names)
    return _PART.sub(lambda _: f"{{{next(given)}}}", pattern.removesuffix("/?"))


def named(routes: Routes) -> Iterator[tuple[str, type[Handler], dict[str, Any]]]:
    """The same routes, with handlers that know by which of them they were reached."""
    for pattern, handler, given in routes:
        verbs = (getattr(handler, verb.lower()) for verb in _VERBS)
        names = next(path_parameters(verb) for verb in verbs if hasattr(verb, "declared"))
        yield pattern, type(handler.__name__, (handler,), {"route": template(pattern, names)}), given


class UnknownPathHandler(Handler):
    """Answers wherever there is nothing."""

    def prepare(self) -> None:
        path = self.request.path[:ECHO]
        raise problems.UnknownPath(f"there is nothing at {path}; GET /services lists what is registered")


def call(
    *,
    query: type[Struct] = Nothing,
    body: type[Struct] = Nothing,
    answer: Any = None,
    refusals: tuple[int, ...] = (),
    media_type: str = "application/json",
    needs: tuple[Right, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Awaitable[None]]]:
    """Declares what a verb takes, the shape of its answer (None: text), how it may refuse, its media type, and the
    rights of which whoever asks needs one.

    The method gets the parts of the path and, as `query` and `body`, what is declared; what it gives back is the
    answer. What is not declared is refused with a 400 that names it."""

    def declare(method: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(method)
        async def run(self: Handler, *path: str) -> None:
            if needs:
                self.identify(needs)
            given = {"query": self.reader.query(query, self.request.query_arguments)}
            if self.request.method not in ("GET", "HEAD"):  # whose body means nothing: RFC 9110, 9.3.1
                given["body"] = self.reader.body(body, self.request.body)
            try:
                value = method(self, *path, **{name: given[name] for name in wanted})
                if inspect.isawaitable(value):
                    value = await value
            except ReaderGone:
                self.hang_up()
                return
            if value is not ANSWERED:
                self.reply(value)

        wanted = [name for name, struct in (("query", query), ("body", body)) if struct is not Nothing]
        run.declared = Declared(query, body, answer, refusals, media_type, needs)  # type: ignore[attr-defined]
        return run

    return declare
