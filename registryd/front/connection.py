"""One connection: bytes in, requests out to the hot table or to Tornado's Application, answers back in order.

A request goes one of three ways, and a test sends the same bytes along each:

1. A header block that has come before, byte for byte, needs no parsing: what the parser made of it is known. With a
   hot request line before it, the answer is a matter of a few look-ups.
2. Any other request is parsed by httptools (llhttp). If it is a hot one, the same table answers it.
3. All others become an `Exchange`, which Tornado takes for one of its own connections. They wait in line: the first one
   has its handler, the others their turn; so answers go out in order.
"""

import asyncio
import logging
import re
from asyncio import Future
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any, NamedTuple, Protocol, cast

import httptools
from tornado.httputil import HTTPHeaders, HTTPInputError, HTTPServerConnectionDelegate, RequestStartLine
from tornado.iostream import StreamClosedError

from registryd.front.exchange import Exchange, Later, Peer, done_future
from registryd.front.table import COLD_HEADERS, Answer, HotTable, Told
from registryd.overload import MOST_HEADERS, ON_THE_WAY, Overload, forget_unsent, unacknowledged
from registryd.tls import subject_of

logger = logging.getLogger(__name__)

#: Bytes that are parsed before other connections get their turn.
SLICE = 8 * 1024
#: Bytes of an answer that are written at once under TLS. Longer ones are long.
PIECE = 64 * 1024
#: Bytes of requests that may wait in line before no more are read. Each counts for its objects, too.
MOST_WAITING = 64 * 1024
EACH_WAITING = 1024
#: Header blocks and requests that are remembered, and the longest of them.
MOST_BLOCKS = 1024
MOST_REQUESTS = 16_384
LONGEST_BLOCK = 2048

_HOST = re.compile(rb"[A-Za-z0-9.\-_]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_END = b" HTTP/1.1"


class Block(NamedTuple):
    """What is known of a header block that has come before."""

    body_length: int
    told: Told


#: A hot call: the function, what follows the prefix, the body and what the headers tell.
Call = tuple[Answer, bytes, bytes, Told]


class Sampled(NamedTuple):
    """In place of the requests that are known, where the next is to be timed."""

    get: Callable[[bytes], Call | None]


class Timeouts(NamedTuple):
    """Seconds after which the front gives up."""

    #: Between two requests, and for a request line with its headers: at least this, and up to a third more.
    idle: float
    #: For a body.
    body: float
    #: For the client to read an answer that fills the buffers.
    unread: float
    #: For the client to notice that it is refused, before the connection is closed on what it still sends.
    linger: float = 2.0


class Bounds(Protocol):
    """How many bytes of each part of a request are taken."""

    @property
    def header_bytes(self) -> int: ...
    @property
    def url_bytes(self) -> int: ...
    @property
    def body_bytes(self) -> int: ...


class Refuse(Protocol):
    """Renders a refusal of the front's own as a whole answer that closes the connection."""

    def __call__(self, status: int, code: str, detail: str) -> bytes: ...


class Shared:
    """What all connections of one server have in common."""

    def __init__(
        self,
        delegate: HTTPServerConnectionDelegate,
        hot: HotTable,
        refuse: Refuse,
        timeouts: Timeouts,
        bounds: Bounds,
        patience: int,
        knows_host: Callable[[str], bool],
        overload: Overload,
        timed: Callable[[Answer], Answer],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.delegate = delegate
        self.hot = hot
        self.refuse = refuse
        self.timeouts = timeouts
        self._patience = patience
        #: Whether a request with this Host is for us; others are for a handler to refuse.
        self.knows_host = knows_host
        #: How much the clients take up of us.
        self.overload = overload
        #: Makes a hot call one that takes note of how long it takes.
        self.timed = timed
        #: What is known of header blocks that have come before, and which hot call whole requests are: both of them as
        #: they come over the wire, so what is known is true of the very same bytes.
        self.blocks: dict[bytes, Block] = {}
        self.requests: dict[bytes, Call] = {}
        self._forget_at = 0.0
        self.done = done_future()
        self.connections: set[Connection] = set()
        #: Those that have no transport yet; and those of either kind that are being closed for the sake of others.
        self.arriving: set[Connection] = set()
        self.leaving: set[Connection] = set()
        self.empty = asyncio.Event()
        self.empty.set()
        #: Whether connections are closed as soon as they have their answer.
        self.is_winding_down = False
        #: Whether that is without a look at what else they have asked.
        self.is_ending = False
        #: Takes a connection that has become idle, if it is to go on without us; None where all are to stay.
        self.on_idle: Callable[[Connection], bool] | None = None
        self.take_bounds(bounds)

    def take_bounds(self, bounds: Bounds) -> None:
        """Takes requests within these bounds from now on."""
        #: Longer heads are not waited for, and bodies with more around them are not read: the delegate has refused
        #: them long before, and has patience only so far.
        self.most_head_bytes = self._patience * (bounds.header_bytes + bounds.url_bytes)
        self.most_framing_bytes = bounds.body_bytes
        #: No hot call has a longer request line, header block or body.
        self.most_header_bytes = bounds.header_bytes
        self.most_url_bytes = bounds.url_bytes
        self.most_body_bytes = bounds.body_bytes
        self.forget()

    def wind_down(self, *, at_once: bool) -> None:
        """Has every connection close after its next answer, which says so: hot calls do not, so there are none. Where
        not `at_once`, what has been asked behind that is answered first."""
        self.is_winding_down, self.is_ending = True, at_once
        self.hot = ()
        self.forget()
        for connection in self.connections:
            connection.go_cold()

    def forget_connection(self, connection: "Connection") -> None:
        """A connection has gone, or has never come to be one."""
        self.overload.crowd.leave(connection.peer.remote_ip, connection)
        self.overload.waiting.release(connection)
        for some in (self.arriving, self.leaving, self.connections):
            some.discard(connection)
        if not self.connections:
            self.empty.set()

    def forget(self) -> None:
        """Forgets the requests that have come before."""
        self.blocks.clear()
        self.requests.clear()

    def remember(self, request: bytes, call: Call) -> None:
        """Remembers a request. When there are too many, all are forgotten, but at most once in a second."""
        if len(self.requests) >= MOST_REQUESTS:
            now = self.loop.time()
            if now < self._forget_at:
                return
            self._forget_at = now + 1.0
            self.requests.clear()
        self.requests[request] = call


class _Gone(asyncio.Transport):
    """Stands for a transport that has gone."""

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: object) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


_GONE = _Gone()


class Connection(asyncio.Protocol):
    """The server's end of one connection."""

    # There may be tens of thousands, and so many names would take 2 kB in a dictionary.
    __slots__ = (
        "_block",
        "_blocks",
        "_closes_later",
        "_completed",
        "_current",
        "_exchanges",
        "_framing",
        "_framing_bytes",
        "_has_asked",
        "_head_bytes",
        "_header_bytes",
        "_headers",
        "_held",
        "_hot",
        "_hot_body",
        "_in_head",
        "_in_message",
        "_is_feeding",
        "_is_fresh",
        "_is_half_open",
        "_is_last",
        "_is_lingering",
        "_is_lost",
        "_is_muted",
        "_is_parsing_later",
        "_is_paused",
        "_is_pumping",
        "_is_reading",
        "_is_told",
        "_parser",
        "_quiet",
        "_refusal",
        "_requests",
        "_rest",
        "_room",
        "_shared",
        "_tasks",
        "_timers",
        "_transport",
        "_unparsed",
        "_url",
        "_waiting",
        "_write",
        "peer",
    )

    def __init__(self, shared: Shared, peer: Peer) -> None:
        self._shared = shared
        self._blocks = shared.blocks
        self._requests: dict[bytes, Call] | Sampled = shared.requests
        self._hot = shared.hot
        self.peer = peer
        self._parser = httptools.HttpRequestParser(self)
        #: Requests that are not answered yet; the first has its turn. And how much of them waits.
        self._exchanges: deque[Exchange | Later] = deque()
        self._waiting = 0
        self._unparsed = b""
        self._is_parsing_later = False
        self._is_feeding = False
        #: Whether the next byte begins a request that can be answered at once.
        self._is_fresh = True
        #: Whether anything has come yet.
        self._has_asked = False
        #: No more requests are taken after the last; the refusal is what is sent then instead of an answer.
        self._is_last = False
        self._refusal: bytes | None = None
        self._is_reading = True
        self._is_lingering = False
        #: Whether the transport is telling us something, and does not bear to be aborted.
        self._is_told = False
        #: Whether the other side sends no more, but may still read.
        self._is_half_open = False
        self._is_lost = False
        #: Done when there is room to write again; None while there is.
        self._room: Future[None] | None = None
        #: Whether the transport takes no more for now; and what of a long answer it has not been given, under TLS.
        self._is_paused = False
        self._rest: deque[memoryview] = deque()
        #: Bytes of long answers of which the transport has at least something, and so all.
        self._held = 0
        self._closes_later = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._quiet = 0
        self._is_pumping = False
        #: What we wait for, or nobody might keep it.
        self._tasks: set[Future[Any]] = set()
        # The request that is being parsed.
        self._in_message = False
        self._in_head = True
        self._head_bytes = 0
        self._framing_bytes = 0
        self._header_bytes = 0
        self._framing = b""
        self._is_muted = False
        self._completed = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._hot_body: list[bytes] | None = None
        self._block: Block | None = None
        self._current: Exchange | None = None

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast("asyncio.Transport", transport)
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self.peer = self.peer._replace(subject=subject_of(certificate))
        # Under TLS all that is written at once is encrypted and handed on at once, however much waits there already.
        self._write = self._transport.write if self._is_plain else self._put
        if not self._is_plain:
            self._transport.set_write_buffer_limits(high=PIECE)  # else it would be half a megabyte
        self._shared.arriving.discard(self)
        self._shared.connections.add(self)
        self._shared.empty.clear()
        self._watch_idle()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._has_asked = True
        if self._is_fresh:
            known = self._requests.get(data) or self._recognize(data)
            if known is not None:
                function, rest, body, told = known
                try:
                    answer = function(rest, body, self.peer, told)
                except Exception as error:
                    self._fail(error)
                    return
                if answer is not None:
                    self._quiet = 0
                    if type(answer) is bytes:
                        self._write(answer)
                        if len(answer) > PIECE:
                            self._hold(len(answer))
                    else:
                        self._is_fresh = False
                        self._answer_later(cast("Future[bytes]", answer))
                    return
        if self._is_last:
            return
        self._unparsed = self._unparsed + data if self._unparsed else data
        if not self._is_parsing_later:
            self._parse()

    def eof_received(self) -> bool:
        """The other side sends no more. Whoever waits for news is done; what has been asked is still answered."""
        self._is_half_open = True
        self._is_fresh = False
        if self._exchanges:
            self._exchanges[0].closed()
        self._take_stock()
        # TLS cannot be half open.
        return not self._transport.is_closing() and self._is_plain

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever the reason, it has gone
        """The end."""
        self._is_lost = self._is_last = True
        self._is_fresh = False
        self._unparsed = b""
        self._rest.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        exchanges, self._exchanges = self._exchanges, deque()
        for exchange in exchanges:
            exchange.closed()
        self._current = None
        self._requests = self._shared.requests  # and not what knows us
        del self._parser  # which knows us: together we would wait for the garbage collector
        if self._room is not None and not self._room.done():
            self._room.set_exception(StreamClosedError())
            self._room.exception()  # whoever waits is told; if nobody does, nobody need be
        self._shared.delegate.on_close(self)
        self._shared.forget_connection(self)
        self._transport = _GONE  # as that of TLS knows us, too, with a quarter of a megabyte of its own
        self._write = _GONE.write

    def pause_writing(self) -> None:
        """What was written is too much to be sent at once."""
        with self._told():
            self._pause_writing()

    def _pause_writing(self) -> None:
        self._is_fresh = False
        self._is_paused = True
        if self._room is not None:  # there is more of the same answer
            return
        self._room = self._shared.loop.create_future()
        if not self._exchanges:
            self._watch_unread()
        self._weigh()

    def resume_writing(self) -> None:
        """There is room again."""
        with self._told():
            self._resume_writing()

    def _resume_writing(self) -> None:
        self._is_paused = False
        if self._held:
            self._held = 0
            self._transport.set_write_buffer_limits()
        self._write_rest()
        if self._is_paused:
            self._weigh()
            return
        if self._closes_later:
            self._shared.loop.call_soon(self._close)  # nor to be closed then
        room, self._room = self._room, None
        self._stop_timer("unread")
        self._weigh()
        if room is not None and not room.done():  # someone who waited may have been cancelled, and it with him
            room.set_result(None)
        self._pump()

    @contextmanager
    def _told(self) -> Iterator[None]:
        before, self._is_told = self._is_told, True
        try:
            yield
        finally:
            self._is_told = before

    @property
    def _is_plain(self) -> bool:
        return self._transport.get_extra_info("sslcontext") is None

    def _put(self, data: bytes) -> None:
        """Writes in pieces, behind what of earlier answers has not been written yet."""
        self._rest.append(memoryview(data))
        self._write_rest()

    def _write_rest(self) -> None:
        """Gives the transport as much as it takes. What it is not given is in `_rest` before the transport can say that
        this is enough, so that it counts then."""
        while self._rest and not self._is_paused:
            view = self._rest.popleft()
            if len(view) > PIECE:
                self._rest.appendleft(view[PIECE:])
            self._transport.write(view[:PIECE])

    def _hold(self, size: int) -> None:
        """A long answer has been written. A transport that has not sent the last byte may keep all of it, so all of it
        counts until then: we have ourselves be told of that moment."""
        if self._is_plain and self._transport.get_write_buffer_size():
            self._held += size
            self._transport.set_write_buffer_limits(high=0)
            self._weigh()

    def _unsent(self) -> int:
        """Bytes that were written and are not sent, as far as we can know."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._rest))

    # The way to the hot table.

    def _recognize(self, data: bytes) -> Call | None:
        """The hot call that these bytes are, if they are nothing but one with a header block that has come before."""
        head, end, body = data.partition(b"\r\n\r\n")
        line, _, block = head.partition(b"\r\n")
        known = self._blocks.get(block)
        if known is None or not end or known.body_length != len(body):
            return None
        call = self._call(line, body, known.told)
        if call is not None and not body and len(data) <= LONGEST_BLOCK:
            self._shared.remember(data, call)
        return call

    def _time_next(self, data: bytes) -> Call | None:
        """The hot call that these bytes are, which is to be timed, and none after it."""
        known = self._shared.requests.get(data) or self._recognize(data)
        if known is None:
            return None
        self._requests = self._shared.requests
        return self._shared.timed(known[0]), known[1], known[2], known[3]

    def _fail(self, error: Exception) -> None:
        """A hot call has failed, which is our own fault. What it has done by then nobody knows, so its handler must not
        do it again."""
        logger.error("a hot call failed", exc_info=error, extra={"event": "failed"})
        self._refuse(500, "internal_error", "registryd has failed; its log says why")

    def _answer_later(self, coming: "Future[bytes]") -> None:
        """A hot call is answered when its answer comes; what is asked meanwhile stands in line."""
        later = Later()
        self._exchanges.append(later)

        def answer(coming: "Future[bytes]") -> None:
            self._tasks.discard(coming)
            later.is_finished = True
            if not coming.cancelled():  # else everything ends
                data = coming.result()
                if self.ends_with(later):
                    later.keep_alive = False
                    data = data.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
                self.send(data)
                self.ended(later)

        self._tasks.add(coming)
        coming.add_done_callback(answer)

    def _call(self, line: bytes, body: bytes, told: Told) -> Call | None:
        for prefix, function in self._hot:
            if line.startswith(prefix):
                if not line.endswith(_END) or len(line) > self._shared.most_url_bytes:
                    return None
                return function, line[len(prefix) : -len(_END)], body, told
        return None

    # The parser's side. It calls these for each part of a request.

    def _parse(self) -> None:
        """Parses a slice of what has come, and leaves the rest for later, so that others get their turn."""
        self._is_parsing_later = False
        if self._unparsed and not self._is_last and self._waiting < MOST_WAITING:
            piece = self._unparsed[:SLICE]
            self._unparsed = self._unparsed[len(piece) :]
            self._is_feeding = True
            was_amid = self._head_bytes > 0
            self._feed(piece)
            self._is_feeding = False
            if was_amid or self._head_bytes:
                self._weigh()
            if self._exchanges:
                self._pump()
        if self._hot_body is not None:  # a request that is under way must be known to be
            self._cool_down()
        self._take_stock()

    def _feed(self, piece: bytes) -> None:
        was_fresh = self._is_fresh and not self._unparsed
        self._completed = 0
        if self._in_head:
            self._head_bytes += len(piece)
        else:
            self._framing_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            # We speak nothing else, so we go on as if it had not been asked for.
            self._parser = httptools.HttpRequestParser(self)
            self._unparsed = piece[upgrade.args[0] :] + self._unparsed
            if self._framing:  # its body is still to come
                framing, self._framing = self._framing, b""
                self._is_muted = True
                self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
                self._is_muted = False
            return
        except httptools.HttpParserInvalidMethodError:
            self._refuse(501, "unknown_method", "this is no method of HTTP; OPTIONS tells what a path can do")
        except httptools.HttpParserCallbackError as error:
            self._refuse_for(error.__context__)
        except httptools.HttpParserError as error:
            if not self._is_last:  # else it came after the last request, and does not count
                self._refuse(400, "bad_request", f"this is not a good HTTP request: {_lowered(str(error))}")
        if self._is_last:
            return
        if not self._in_message:
            self._head_bytes = 0
        if self._in_head and self._head_bytes > self._shared.most_head_bytes:
            self._refuse(431, "headers_too_large", "the request line and headers are far over their limits")
        elif not self._in_head and self._framing_bytes > self._shared.most_framing_bytes:
            self._refuse(400, "bad_request", "the body is in too many small chunks, or has too much after it")
        elif was_fresh and self._block is not None and self._completed == 1 and not self._in_message:
            self._learn(piece, self._block)

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._is_muted:
            return
        if self._is_last:
            raise _NoMore
        self._in_message = True

    def on_url(self, url: bytes) -> None:
        """The request's target, or a part of it."""
        if not self._is_muted:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the body, a trailer, which nobody here needs."""
        if self._in_head and not self._has_too_many_headers:  # more are refused, and not kept
            self._headers.append((name, value))
            self._header_bytes += len(name) + len(value) + 4

    @property
    def _has_too_many_headers(self) -> bool:
        return self._header_bytes > self._shared.most_header_bytes or len(self._headers) > MOST_HEADERS

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if self._is_muted:
            return
        self._in_head = False
        self._framing_bytes = 0
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise HTTPInputError("it is in a version of HTTP other than 1.0 and 1.1")
        if self._parser.should_upgrade():
            self._expect_body()
        self._block = self._as_block(version) if self._is_hot() else None
        if self._block is not None:
            self._hot_body = []
        else:
            self._open(version)

    def _expect_body(self) -> None:
        """The parser takes a request that asks for an upgrade to end with its head. It has a body like any other."""
        if self._has_too_many_headers:  # so we have not kept what says how long it is
            raise HTTPInputError("its header block is over the limit, and it asks for an upgrade")
        for name, value in self._headers:
            key = name.lower()
            if key == b"transfer-encoding" or (key == b"content-length" and int(value)):
                self._framing = name + b": " + value
        if self._framing and self._parser.get_method() == b"CONNECT":
            raise HTTPInputError("CONNECT has no body")

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._framing_bytes -= len(body)
        if self._hot_body is not None:
            self._hot_body.append(body)
        elif self._current is not None and not self._current.is_finished:
            self._current.parts.append(body)
            self._waiting += len(body)
            self._pump()

    def on_message_complete(self) -> None:
        """The request is complete."""
        if self._framing:
            return
        self._in_message, self._in_head = False, True
        self._completed += 1
        self._quiet = 0
        keep_alive = self._parser.should_keep_alive() and (self._current is None or self._current.keep_alive)
        hot_body = self._hot_body
        if hot_body is not None and self._block is not None:
            self._hot_body = None
            line = b"%b %b%b" % (self._parser.get_method(), self._url, _END)
            call = self._call(line, b"".join(hot_body), self._block.told)
            try:
                answer = None if call is None else call[0](call[1], call[2], self.peer, call[3])
            except Exception as error:
                self._fail(error)
                return
            if answer is None:
                self._hot_body = hot_body
                self._cool_down()
            elif isinstance(answer, bytes):
                self.send(answer)
            else:
                self._answer_later(answer)
        current, self._current = self._current, None
        self._url, self._headers, self._head_bytes, self._header_bytes = b"", [], 0, 0
        if not keep_alive:
            self._is_last = True
        if current is not None:
            current.is_received = True
            self._pump()

    def _is_hot(self) -> bool:
        """Whether this may be a hot call, and could be answered now."""
        if self._exchanges or self._room is not None:
            return False
        line = b"%b %b" % (self._parser.get_method(), self._url)
        return any(line.startswith(prefix) for prefix, _ in self._hot)

    def _as_block(self, version: str) -> Block | None:
        """What can be known of the header block of a hot call; None where anything about it is out of the ordinary, so
        that the call is for its handler."""
        length, agent, host, authorization = 0, None, None, None
        for name, value in self._headers:
            key = name.lower()
            if key in COLD_HEADERS:
                return None
            if key == b"host":
                if host is not None or not _HOST.fullmatch(value.rstrip(b" \t")):
                    return None
                host = value
            elif key == b"content-length":
                length = int(value)
            elif key == b"user-agent":
                if agent is not None:
                    return None
                agent = value
            elif key == b"authorization":
                if authorization is not None:
                    return None
                authorization = _text(value)
        if host is None or version != "1.1" or not self._parser.should_keep_alive():
            return None
        if length > self._shared.most_body_bytes or not self._shared.knows_host(_text(host)):
            return None
        if self._header_bytes > LONGEST_BLOCK or self._has_too_many_headers:
            return None
        return Block(length, Told(_text(agent or b""), authorization))

    def _learn(self, piece: bytes, block: Block) -> None:
        """Remembers the header block of a request that was all there was."""
        head, _, body = piece.partition(b"\r\n\r\n")
        line, _, text = head.partition(b"\r\n")
        if line.endswith(_END) and b" /" in line and len(text) <= LONGEST_BLOCK and len(body) == block.body_length:
            if len(self._blocks) >= MOST_BLOCKS:
                self._blocks.clear()
            self._blocks[text] = block

    # The way to a handler.

    def _open(self, version: str) -> Exchange:
        """Opens an exchange for the request whose head is complete, and lets it begin if it is its turn."""
        headers = HTTPHeaders()
        for name, value in self._headers:
            headers.add(name.decode("latin-1"), _text(value))
        if "Transfer-Encoding" in headers and (version == "1.0" or headers["Transfer-Encoding"].lower() != "chunked"):
            raise HTTPInputError("the only transfer encoding is chunked, in HTTP/1.1")
        start = RequestStartLine(
            self._parser.get_method().decode("latin-1"), self._url.decode("latin-1"), f"HTTP/{version}"
        )
        exchange = Exchange(self, start, headers, keep_alive=self._parser.should_keep_alive())
        self._current = exchange
        self._exchanges.append(exchange)
        self._waiting += EACH_WAITING
        self._pump()
        return exchange

    def _cool_down(self) -> None:
        """A request that seemed to be for the hot table is for its handler, or is not here yet."""
        parts, self._hot_body = self._hot_body or [], None
        exchange = self._open("1.1")
        exchange.parts.extend(parts)
        self._waiting += sum(map(len, parts))
        self._pump()

    def _pump(self) -> None:
        """Gives the first exchange what has come of it, as long as its handler takes it, and then the next."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._exchanges and not self._exchanges[0].is_finished and self._room is None:
                if not self._give(self._exchanges[0]):
                    break
        except HTTPInputError as error:
            self._refuse_for(error)
        except Exception:
            logger.exception("a request could not be passed on", extra={"event": "failed"})
            self.abort()
        finally:
            self._is_pumping = False
        if not self._is_feeding:
            self._take_stock()

    def _give(self, exchange: Exchange | Later) -> bool:
        """Gives an exchange the next part; whether there may be another."""
        if isinstance(exchange, Later) or exchange.is_blocked or exchange.is_delivered:
            return False
        if exchange.delegate is None:
            self._waiting -= EACH_WAITING
            exchange.delegate = self._shared.delegate.start_request(self, exchange)
            self._wait_for(exchange, exchange.delegate.headers_received(exchange.start, exchange.headers))
            if exchange.asks_first and not exchange.is_begun:
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif exchange.parts:
            part = exchange.parts.popleft()
            self._waiting -= len(part)
            self._wait_for(exchange, exchange.delegate.data_received(part))
        elif exchange.is_received:
            exchange.is_delivered = True
            exchange.delegate.finish()
            if self._is_half_open:
                exchange.closed()
        else:
            return False
        return True

    def _wait_for(self, exchange: Exchange, taken: Awaitable[None] | None) -> None:
        if taken is None:
            return
        exchange.is_blocked = True

        def go_on(future: "Future[None]") -> None:
            self._tasks.discard(future)
            exchange.is_blocked = False
            if not future.cancelled() and future.exception() is not None:
                logger.error("a request could not be passed on", exc_info=future.exception(), extra={"event": "failed"})
                self.abort()
            self._pump()

        future = asyncio.ensure_future(taken)
        self._tasks.add(future)
        future.add_done_callback(go_on)

    # The exchange's side.

    def send(self, data: bytes) -> "Future[None]":
        """Sends bytes; the future is done when there is room for more. It fails where the other side has gone."""
        if self._is_lost or self._transport.is_closing():
            failed: Future[None] = self._shared.loop.create_future()
            failed.set_exception(StreamClosedError())
            failed.exception()
            return failed
        self._write(data)
        if len(data) > PIECE:
            self._hold(len(data))
        return self._room or self._shared.done

    def ended(self, exchange: Exchange | Later) -> None:
        """The answer is complete; the next one's turn comes, if the connection goes on."""
        if self._is_lost or self._transport.is_closing():
            return
        self._exchanges.popleft()
        self._quiet = 0
        if self._room is not None:
            self._watch_unread()
        if isinstance(exchange, Exchange):
            self._waiting -= sum(map(len, exchange.parts))
            exchange.parts.clear()
        if not exchange.is_received:  # the rest of its body is nobody's, and the next request is behind it
            self._linger()
        elif exchange.keep_alive:
            self._pump()
        elif self._exchanges or self._unparsed or self._in_message:  # it has sent more, which nobody will answer
            self._linger()
        else:
            self._close()

    def abort(self) -> None:
        """Closes the connection at once, with whatever is in its buffers."""
        self._is_last = True
        self._is_fresh = False
        if self._is_told:
            self._shared.loop.call_soon(self._transport.abort)
        else:
            self._transport.abort()

    def reset(self) -> None:
        """The same, and leaves nothing of what is not sent to the system."""
        if not self._is_lost:
            forget_unsent(self._socket)
            self.abort()

    def ends_with(self, exchange: Exchange | Later) -> bool:
        """Whether this is the last answer, although the client would go on: of what it has sent already, nothing is
        dropped, until there is no more time."""
        if not self._shared.is_winding_down or not self._exchanges:
            return False
        if self._shared.is_ending:
            return True
        is_next_begun = self._in_message and self._current is not exchange
        return self._exchanges[-1] is exchange and not self._unparsed and not is_next_begun

    # The end, in its several ways.

    def go_cold(self) -> None:
        """Answers no more hot calls."""
        self._hot = ()

    def go_on(self) -> None:
        """Goes on to read, if it was to go."""
        self._take_stock()

    @property
    def is_idle(self) -> bool:
        """Whether it stands between two requests with nothing in our hands, so that anyone could go on with it."""
        transport = self._transport
        return (
            self._is_fresh and not transport.is_closing() and not transport.get_write_buffer_size() and self._is_plain
        )

    def has_not_come(self) -> None:
        """It has never had a transport, and will not."""
        del self._parser
        self._shared.forget_connection(self)

    def is_quiet(self) -> bool:
        """Whether it stands between two requests. One that has asked nothing yet may be about to."""
        return self._is_fresh and self._has_asked

    def make_room(self) -> None:
        """Closes the connection for the sake of another."""
        if self._is_amid_request():
            self._shared.overload.lose()
        if self._is_fresh and unacknowledged(self._socket) <= ON_THE_WAY:
            self.close()
        else:
            self.reset()

    @property
    def _socket(self) -> socket | None:
        found: socket | None = self._transport.get_extra_info("socket")  # None where TLS is closing already
        return found

    def fileno(self) -> int:
        """Its file descriptor."""
        descriptor: int = self._transport.get_extra_info("socket").fileno()
        return descriptor

    def let_go(self) -> None:
        """Closes our descriptor, and not the connection: someone else has it, too. While it `is_idle`."""
        self.abort()

    def close(self) -> None:
        """Closes the connection when what was written has been sent."""
        self._is_last = True
        self._close()

    def _close(self) -> None:
        self._is_fresh = False
        self._unparsed = b""
        if self._transport.is_closing():
            return
        if self._is_plain or not self._unsent():
            self._transport.close()
        elif not self._closes_later:  # to be told to close, TLS drops soon what is not sent
            self._closes_later = True
            self._transport.set_write_buffer_limits(high=1)  # with 0 TLS would have us wait where nothing is left
            if "unread" not in self._timers:
                self._watch_unread()

    def has_sent_all(self) -> bool:
        """Whether it is closing, and waits for nothing but the other side's goodbye."""
        return self._transport.is_closing() and not self._unsent()

    def _refuse_for(self, error: BaseException | None) -> None:
        if isinstance(error, _NoMore):
            return
        if isinstance(error, HTTPInputError):
            self._refuse(400, "bad_request", f"this is not a good HTTP request: {error}")
        else:
            logger.error("a request could not be read", exc_info=error, extra={"event": "failed"})
            self.abort()

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """Refuses what comes next, once all before it is answered, and takes nothing more."""
        self._is_last = True
        self._is_fresh = False
        self._unparsed = b""
        self._refusal = self._shared.refuse(status, code, detail)
        self._hot_body = None
        self._drop_current()
        self._take_stock()

    def _drop_current(self) -> None:
        """The request that is being parsed will not be completed."""
        current, self._current = self._current, None
        if current is None or current.is_received:
            return
        current.closed()
        if current in self._exchanges:
            self._exchanges.remove(current)
        if current.is_begun:  # it has its answer, a refusal of another kind
            self._refusal = None
            self._linger()

    def _take_stock(self) -> None:
        """After anything has happened: what now?"""
        if self._is_lost or self._transport.is_closing():
            return
        if self._is_half_open and not self._unparsed and not self._is_feeding:
            self._is_last = True
            self._drop_current()
            if not self._exchanges and self._refusal is None:
                self._close()
                return
        if self._refusal is not None and not self._exchanges and self._room is None:
            refusal, self._refusal = self._refusal, None
            self._write(refusal)
            self._linger()
            return
        self._is_fresh = not (
            self._exchanges
            or self._in_message
            or self._unparsed
            or self._is_last
            or self._is_half_open
            or self._room is not None
        )
        on_idle = self._shared.on_idle
        if on_idle is not None and self._is_fresh and self._is_plain:
            if self.is_idle and on_idle(self):
                return
            if self._is_reading:  # what comes now is for the next of us; as soon as our answer is out, this goes, too
                self._is_reading = False
                self._transport.pause_reading()
            return
        is_there_room = self._waiting < MOST_WAITING
        if self._unparsed and is_there_room and not self._is_parsing_later:
            self._is_parsing_later = True
            self._shared.loop.call_soon(self._parse)
        should_read = is_there_room and not self._unparsed
        self._watch_body()
        if should_read != self._is_reading and not self._is_lingering:
            self._is_reading = should_read
            if should_read:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
            self._weigh()

    def _weigh(self) -> None:
        """Says how many bytes wait for this client: those that it does not read, those that it has sent early, and the
        head of a request that is not here in full."""
        size = 0
        if self._room is not None:
            rest = sum(memoryview(view.obj).nbytes for view in self._rest)  # each keeps what it is a part of
            size = max(self._held, self._transport.get_write_buffer_size()) + rest
        if not self._is_reading:
            size += len(self._unparsed) + self._waiting
        if self._in_message and self._in_head and not self._is_last:
            size += self._head_bytes
        if size:
            with self._told():  # that it is one too many itself, it hears later
                self._shared.overload.waiting.hold(self, size, self._let_go)
        else:
            self._shared.overload.waiting.release(self)

    def _let_go(self) -> None:
        """There is too much that waits, and we have kept ours for the longest time."""
        if self._is_amid_request():
            self._shared.overload.lose()
        self.reset()

    def _is_amid_request(self) -> bool:
        """Whether a request may be on the way, or the first one be about to come, which may be a heartbeat."""
        return self._in_message or bool(self._unparsed) or not self._has_asked

    def _linger(self) -> None:
        """Ends our side, and drops what still comes for a while: closed on unread bytes, TCP would take back what we
        have sent."""
        self._is_last = self._is_lingering = True
        self._is_fresh = False
        self._unparsed = b""
        if not self._is_reading:
            self._is_reading = True
            self._transport.resume_reading()
        if not self._transport.can_write_eof():
            self._close()
            return
        self._transport.write_eof()
        self._arm("linger", self._shared.timeouts.linger, self.abort)

    # Time.

    def _arm(self, name: str, seconds: float, do: Callable[[], None]) -> None:
        self._stop_timer(name)
        self._timers[name] = self._shared.loop.call_later(seconds, do)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _watch_idle(self) -> None:
        """Looks three times in the idle time-out: a request in between costs a note and not a timer. The next one is
        timed: so that costs the others nothing."""
        self._requests = Sampled(self._time_next)
        if not self._exchanges:
            self._quiet += 1
            if self._quiet > 3:
                self._give_up()
                return
        self._arm("idle", self._shared.timeouts.idle / 3, self._watch_idle)

    def _watch_body(self) -> None:
        """A body has its time from when we are ready to take it: not while its request stands in line."""
        is_awaited = self._in_message and not self._in_head and not self._is_last
        if is_awaited and self._exchanges:
            is_awaited = self._exchanges[0] is self._current
        if not is_awaited:
            self._stop_timer("body")
        elif "body" not in self._timers:
            self._arm("body", self._shared.timeouts.body, self._give_up)

    def _give_up(self) -> None:
        self._drop_current()
        if unacknowledged(self._socket):  # what it has not taken in all this time it never will
            self.reset()
        else:
            self.abort()

    def _watch_unread(self) -> None:
        """Nobody else looks after an answer that is complete. Its reader may be slow, but not stop: what he takes from
        the system shows that he has not, long before there is room to write again."""
        before = self._unsent() + unacknowledged(self._socket)

        def look() -> None:
            if self._unsent() + unacknowledged(self._socket) < before:
                self._watch_unread()
            else:
                self.reset()

        self._arm("unread", self._shared.timeouts.unread, look)


class _NoMore(Exception):
    """Stops the parser: what follows the last request is nobody's."""


def _text(value: bytes) -> str:
    """A header's value."""
    return value.decode("latin-1").strip(" \t")


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
