"""`GET /watch`: server-sent events, each rendered once however many watch, and sent in slices, so that ten thousand
watchers do not keep everyone else waiting.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from socket import socket
from typing import Any, NamedTuple

from msgspec import Struct, field
from tornado.ioloop import PeriodicCallback
from tornado.iostream import IOStream

from registryd.api import render
from registryd.api.base import ANSWERED, Handler, call, reset
from registryd.api.context import Context
from registryd.core.errors import InvalidInput
from registryd.core.model import Change
from registryd.feed import Watcher
from registryd.overload import Waiting
from registryd.registry import Registry

logger = logging.getLogger(__name__)

#: Seconds between two comments that keep proxies from closing a quiet stream.
KEEP_ALIVE = 15.0
#: Watchers that are written to before others get their turn.
SLICE = 100
#: Changes and bytes that one watcher is sent in one turn, and seconds that it may leave them unread.
TURN_CHANGES = 256
TURN_BYTES = 256 * 1024
UNREAD_TIMEOUT = 30.0
#: Events that are kept rendered while watchers have their turns.
MOST_RENDERED = 4096


class WatchQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which services to watch; none: all."""

    services: tuple[str, ...] = field(name="service", default=())


class Piece:
    """A piece of a body: as it is, and as a chunk (RFC 9112, 7.1). Made once, however many get it."""

    __slots__ = ("chunk", "plain")

    def __init__(self, plain: bytes, chunk: bytes = b"") -> None:
        self.plain = plain
        self.chunk = chunk or b"%x\r\n%b\r\n" % (len(plain), plain)

    @classmethod
    def join(cls, pieces: "list[Piece]") -> "Piece":
        """Several in one."""
        if len(pieces) == 1:
            return pieces[0]
        return cls(b"".join(piece.plain for piece in pieces), b"".join(piece.chunk for piece in pieces))


COMMENT = Piece(b": still here\n\n")
RESUMED = Piece(b": resumed\n\n")


class Turn(NamedTuple):
    """What a watcher is sent in one turn, and where it stands then."""

    #: The feed's index when it was made.
    made_at: int
    changes: Sequence[Change]
    piece: Piece
    cursor: int
    is_behind: bool


class Pipe:
    """The body of one answer, as it is written bit by bit: in chunks that are made once for all who get them."""

    def __init__(self, connection: Any, *, chunked: bool) -> None:
        self._connection = connection
        self._chunked = chunked
        #: Whether what was sent last still waits in a buffer.
        self.is_full = False

    def send(self, piece: "Piece") -> None:
        """Sends a piece of the body. Not while `is_full`: `drained` tells when that is over."""
        sent = self._send(piece.chunk if self._chunked else piece.plain)
        if sent is not None and not sent.done():
            self._sent = sent
            self.is_full = True

    async def drained(self) -> None:
        """Waits until there is room again. Raises StreamClosedError where the reader has gone."""
        await self._sent
        self.is_full = False

    def cut_off(self) -> None:
        """Closes the connection, with whatever is in the buffers."""
        self._connection.reset()

    def _send(self, data: bytes) -> "asyncio.Future[None] | None":
        sent: asyncio.Future[None] = self._connection.send_framed(data)
        return sent


class TornadoPipe(Pipe):
    """The same on Tornado's own server: bytes go straight to the socket as long as it takes them, which is several
    times faster than through two layers of buffers. Where the socket is full the rest waits in Tornado's, and we count
    it."""

    def __init__(self, connection: Any, *, chunked: bool, waiting: Waiting) -> None:
        super().__init__(connection, chunked=chunked)
        self._waiting = waiting

    def cut_off(self) -> None:
        reset(self._connection.stream)

    def _send(self, data: bytes) -> "asyncio.Future[None] | None":
        stream: IOStream = self._connection.stream
        if stream.closed():  # its end is on the way to us
            return None
        rest = data if stream.writing() else _send_now(stream.socket, data)
        if not rest:
            return None
        sent = stream.write(rest)
        if not sent.done():
            self._waiting.hold(self, len(rest), self.cut_off)
            sent.add_done_callback(lambda _: self._waiting.release(self))
        return sent


def _send_now(sock: socket, data: bytes) -> bytes:
    """Sends what the socket takes without waiting; gives back the rest. An error is for the stream to find."""
    try:
        return data[sock.send(data) :]
    except OSError:
        return data


class Stream:
    """One watcher and its pipe."""

    def __init__(self, pipe: Pipe, watcher: Watcher) -> None:
        self.pipe = pipe
        self.watcher = watcher
        #: Done when the stream is over, from either side.
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_queued = False
        #: Since when it has left unread what it was sent, on the loop's clock.
        self.full_since = 0.0

    def end(self) -> None:
        """Ends the stream."""
        if not self.over.done():
            self.over.set_result(None)


class Broadcast:
    """Writes what watchers are to be told, a slice of them at a time."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: How many watchers were cut off.
        self.cut_off = 0
        self._streams: dict[Watcher, Stream] = {}
        self._queue: deque[Stream] = deque()
        #: Events rendered for the watchers that are in the queue, by index.
        self._rendered: dict[int, Piece] = {}
        #: What those are sent who watch the same services and are as far, by services and cursor.
        self._turns: dict[tuple[frozenset[str | None], int], Turn] = {}
        self._is_scheduled = False
        #: Those who wait for a slow reader.
        self._slow: set[asyncio.Future[None]] = set()
        self._timer = PeriodicCallback(self._keep_alive, KEEP_ALIVE * 1000)

    def start(self) -> None:
        """Starts the comments that keep streams awake."""
        self._timer.start()

    def close(self) -> None:
        """Ends all streams in order, after what they can be told at once."""
        self._timer.stop()
        while self._queue:
            self._tell(self._queue.popleft())
        for stream in self._streams.values():
            stream.end()

    def add(self, stream: Stream) -> None:
        """Takes a stream in."""
        self._streams[stream.watcher] = stream

    def end_all(self) -> None:
        """Ends all streams, as at a stop."""
        for stream in list(self._streams.values()):
            stream.end()

    def remove(self, stream: Stream) -> None:
        """Lets a stream go."""
        self._streams.pop(stream.watcher, None)

    def ready(self, watcher: Watcher) -> None:
        """A watcher has something to be told: it gets its turn, unless it still has to read what it was sent."""
        stream = self._streams.get(watcher)
        if stream is not None and not stream.pipe.is_full:
            self._queue_up(stream)

    def _queue_up(self, stream: Stream) -> None:
        if not stream.is_queued:
            stream.is_queued = True
            self._queue.append(stream)
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """Serves a slice of the queue, and then lets others have their turn."""
        self._is_scheduled = False
        told: dict[int, Change] = {}
        for _ in range(min(SLICE, len(self._queue))):
            for change in self._tell(self._queue.popleft()):
                told[change.index] = change
        self._registry.told(told.values())
        if self._queue:
            self._schedule()
        else:
            self._rendered.clear()
            self._turns.clear()

    def _tell(self, stream: Stream) -> Sequence[Change]:
        """Sends one watcher what is next; gives back the changes in it."""
        stream.is_queued = False
        if stream.over.done():
            return ()
        watcher = stream.watcher
        turn = self._turns.get((watcher.services, watcher.cursor))
        if turn is None or turn.made_at != self._registry.feed.index:
            turn = self._make_turn(watcher)
        if turn is None:
            self._cut_off(stream, "it is too far behind")
            return ()
        watcher.cursor, watcher.is_behind = turn.cursor, turn.is_behind
        self.send(stream, turn.piece)
        if turn.is_behind and not stream.pipe.is_full:
            self._queue_up(stream)
        return turn.changes

    def _make_turn(self, watcher: Watcher) -> "Turn | None":
        """What a watcher is to be sent next, for all who watch the same and are as far; a comment where there is
        nothing. None where the history has left it behind."""
        before, index = watcher.cursor, self._registry.feed.index
        changes = self._registry.feed.take(watcher, TURN_CHANGES)
        if changes is None:
            return None
        cursor, is_behind = watcher.cursor, watcher.is_behind
        pieces: list[Piece] = []
        size = 0
        for change in changes:
            pieces.append(self._render(change))
            size += len(pieces[-1].plain)
            if size >= TURN_BYTES and len(pieces) < len(changes):
                cursor, is_behind = change.index, True
                break
        piece = Piece.join(pieces) if pieces else COMMENT  # it is here to be kept awake
        turn = Turn(index, changes[: len(pieces)], piece, cursor, is_behind)
        if len(self._turns) >= MOST_RENDERED:
            self._turns.clear()
        self._turns[watcher.services, before] = turn
        return turn

    def _cut_off(self, stream: Stream, why: str) -> None:
        self.cut_off += 1
        logger.info("watcher cut off: %s; it may resume", why, extra={"event": "watcher_cut_off", "reason": why})
        stream.pipe.cut_off()
        stream.end()

    def send(self, stream: Stream, piece: Piece) -> None:
        """Sends something of its own to one watcher, or has it wait."""
        stream.pipe.send(piece)
        if stream.pipe.is_full:
            stream.full_since = asyncio.get_running_loop().time()
            self._slow.add(task := asyncio.ensure_future(self._go_on(stream)))
            task.add_done_callback(self._slow.discard)

    async def _go_on(self, stream: Stream) -> None:
        """Waits for a slow reader, who may be told more then."""
        try:
            await stream.pipe.drained()
        except OSError:  # it has gone
            stream.end()
            return
        if stream.watcher.is_behind:
            self._queue_up(stream)

    def _render(self, change: Change) -> Piece:
        rendered = self._rendered.get(change.index)
        if rendered is None:
            if len(self._rendered) >= MOST_RENDERED:  # the queue has not been empty for long
                self._rendered.clear()
            rendered = self._rendered[change.index] = Piece(render.change(change))
        return rendered

    def _keep_alive(self) -> None:
        now = asyncio.get_running_loop().time()
        for stream in list(self._streams.values()):
            if not stream.pipe.is_full:
                self._queue_up(stream)
            elif now - stream.full_since >= UNREAD_TIMEOUT:
                self._cut_off(stream, f"it has not read for {UNREAD_TIMEOUT:g} s")


class WatchHandler(Handler):
    """`GET /watch`"""

    def initialize(self, context: Context, broadcast: Broadcast) -> None:  # type: ignore[override]
        super().initialize(context)
        self._broadcast = broadcast

    @call(query=WatchQuery, refusals=(429, 503), media_type="text/event-stream", needs=("read",))
    async def get(self, *, query: WatchQuery) -> object:
        """Streams a snapshot, or what was missed, and then every change."""
        last_seen = self._last_event_id()
        for service_name in query.services:
            self.caller.must("read", service_name)
        if not query.services:
            self.caller.must_for_all("read")
        self.must_know()
        self.take_index(self.registry.index())
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        if self.request.method == "HEAD":
            return ANSWERED
        with self.registry.feed.seat():
            await self._follow(query.services, last_seen)
        return ANSWERED

    head = get

    async def _follow(self, services: Iterable[str], last_seen: int | None) -> None:
        self.flush()
        chunked = self._headers.get("Transfer-Encoding") == "chunked"
        watcher = Watcher(services, self._broadcast.ready)
        connection = self.request.connection
        if hasattr(connection, "send_framed"):
            pipe = Pipe(connection, chunked=chunked)
        else:
            pipe = TornadoPipe(connection, chunked=chunked, waiting=self.overload.waiting)
        stream = Stream(pipe, watcher)
        self.when_gone(stream.end)
        self._broadcast.add(stream)
        feed = self.registry.feed
        try:
            # From here to the next await nothing can change, so nothing is missed and nothing comes twice.
            if last_seen is not None and feed.knows_since(watcher.services, last_seen):
                self._broadcast.send(stream, RESUMED)
                feed.attach(watcher, last_seen)
            else:
                self._broadcast.send(stream, self._snapshot(services))
                feed.attach(watcher, feed.index)
            if feed.is_closing:
                stream.end()
            with self.waiting():
                await stream.over
        finally:
            feed.detach(watcher)
            self._broadcast.remove(stream)

    def _snapshot(self, services: Iterable[str]) -> Piece:
        # In a method of its own: it may be large, and must not live as long as the stream.
        leases = self.registry.snapshot(services)
        return Piece(render.event("snapshot", self.registry.feed.index, render.snapshot(leases)))

    def _last_event_id(self) -> int | None:
        text = self.request.headers.get("Last-Event-ID")
        if text is None or text == "":
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= 16):
            raise InvalidInput("Last-Event-ID", f"Last-Event-ID {text[:64]!r} is not allowed; send the id of an event")
        return int(text)


def routes(context: Context, broadcast: Broadcast) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """The path of this face, for an Application."""
    return [(r"/watch/?", WatchHandler, {"context": context, "broadcast": broadcast})]
