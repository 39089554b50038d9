"""The life of the daemon: the only place that knows all the others. Start, run, stop, in a written order."""

import asyncio
import gc
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tornado.web import Application

from registryd import __version__
from registryd.api import metrics, openapi, page, sd, v1, watch
from registryd.api.base import UNREAD_TIMEOUT, Handler, UnknownPathHandler, named
from registryd.api.context import Context, Daemon, UnderWay, Vitals
from registryd.api.hosts import Hosts
from registryd.api.hot import HotCalls
from registryd.api.intake import BODY_TIMEOUT, IDLE_TIMEOUT, PATIENCE, Intake, IntakeServer, refuse, refuse_counted
from registryd.api.reader import Reader
from registryd.api.watch import Broadcast
from registryd.auth import Access, BadAuthFile, Callers, read
from registryd.clock import LeaseClock, MonotonicIOLoop
from registryd.config import BadSetting, Config, changes, in_force
from registryd.control import Control, Outcome
from registryd.core.limits import Limits
from registryd.core.state import State
from registryd.feed import Feed
from registryd.listeners import (
    Acceptor,
    AddressUnavailable,
    CannotListen,
    adopt,
    allow_many_connections,
    is_loopback,
    listen,
    take_back,
    url_of,
)
from registryd.logs import ChangeLog
from registryd.overload import Overload
from registryd.registry import Registry
from registryd.store.base import MemoryStore, Store
from registryd.store.file import StateFile
from registryd.store.sqlite import SqliteStore, recover
from registryd.sweeper import Sweeper
from registryd.systemd import Notifier, StatusLine, Watchdog, handed_over, watchdog_seconds
from registryd.tls import CannotUseTls, make_context

logger = logging.getLogger(__name__)

#: The name (FileDescriptorName=) of a socket on which the service manager has us answer HTTP.
HTTP_SOCKET = "http"
#: The name under which it keeps a connection for the next of us.
CONNECTION = "connection"
#: Seconds for which connections are seen off at a stop after everything under way is answered, and between two looks
#: at which of them are idle.
SEEING_OFF, LOOK = 1.0, 0.02


class NotInstalled(Exception):
    """Something was asked for that is not installed; the text is one line that says what to do."""


class Server:
    """One daemon. `await run()` from a new asyncio loop; it gives back the exit status. `load` reads the settings
    again."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        http: str,
        change_log: ChangeLog,
        load: Callable[[], Config],
    ) -> None:
        self._config = config
        self._load = load
        self._change_log = change_log
        self._http_kind = http
        self._notifier = Notifier.from_environment(environ)
        self._handed = handed_over(environ, os.getpid())
        self._watchdog_seconds = watchdog_seconds(environ, os.getpid())
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._under_way = UnderWay()
        self._access = Access()
        self._hosts = Hosts(config.allow_hosts.split(","))

    async def run(self) -> int:
        """Serves until a signal comes. 0: everything under way was answered; 1: something was cut off.
        Raises BadAuthFile, CannotListen, CannotUseState, CannotUseTls."""
        MonotonicIOLoop()
        self._access.take(callers_of(self._config))
        self._tls = tls_of(self._config)
        self._descriptors = allow_many_connections()
        sockets = self._listen()
        self._take_signals()
        self._open_registry()
        self._start(sockets)
        await self._control.start()
        self._ready(sockets)
        await self._stopping.wait()
        return await self._stop()

    def _listen(self) -> list[socket.socket]:
        """The sockets that the service manager hands over, else our own. Raises CannotListen."""
        sockets = []
        for handed in self._handed:
            if handed.name == CONNECTION:
                continue
            if handed.name != HTTP_SOCKET:
                raise CannotListen(
                    f"the service manager hands over a socket named {handed.name!r}, which registryd does not know; "
                    f"give it FileDescriptorName={HTTP_SOCKET}"
                )
            sockets.append(adopt(*handed))
        self._is_handed_over = bool(sockets)
        try:
            return sockets or listen(self._config.host, self._config.port)
        except AddressUnavailable as error:
            if not self._notifier.has_manager:
                raise
            # Under our own unit, which may not open sockets, this is what is wrong.
            raise AddressUnavailable(
                f"{error}, or have the service manager hand a socket over: systemctl restart registryd.socket"
            ) from None

    def _url_of(self, sock: socket.socket) -> str:
        return url_of(sock, "https" if self._tls else "http")

    def _open_registry(self) -> None:
        """Begins where the former life has ended, if there was one. Raises CannotUseState."""
        config = self._config
        self._state = state = State(
            default_ttl=config.heartbeat_timeout, limits=config.limits, suspect_share=config.suspect_share
        )
        recovers_for = 0.0
        index = int(time.time() * 1e6)
        file = StateFile(Path(config.state_dir)) if config.state_dir else None
        if file is not None:
            contents, recovers_for = recover(file, config.heartbeat_timeout, time.time())
            index = max(index, contents.next_index)
            file.put_aside(index)
        # Not before: the disk may take its time, which is nobody's stall.
        self._clock = clock = LeaseClock()
        if file is not None:
            state.restore(contents.instances, contents.gone, clock.now(), clock.wall())
            store = SqliteStore(file, index)
            store.probe()
            self._store: Store = store
            logger.info(
                "restored instances=%d gone=%d from=%s", len(contents.instances), len(contents.gone), file.path,
                extra={"event": "state_restored"},
            )  # fmt: skip
        else:
            self._store = MemoryStore(index)
        self._feed = Feed(index, most_watchers=config.limits.watchers)
        self._feed.subscribe(self._change_log.note)
        self._registry = Registry(state, self._store, self._feed, clock)
        if recovers_for:
            self._registry.recover(recovers_for)

    def _start(self, sockets: list[socket.socket]) -> None:
        config, clock, registry = self._config, self._clock, self._registry
        self._sweeper = Sweeper(registry, clock, config.cleanup_interval, hears=self._hears)
        self._watchdog = Watchdog(self._notifier, self._watchdog_seconds, self._sweeper.is_alive)
        self._broadcast = Broadcast(registry)
        self._context = context = Context(
            registry, Reader(config.limits), self._daemon(clock), self._under_way, self._access, self._hosts,
            Overload(config.limits, self._descriptors),
        )  # fmt: skip
        context.overload.stand_still = clock.stand_still
        self._http = make_http_server(self._http_kind, make_application(context, self._broadcast), context)
        self._http.take_tls(self._tls)
        self._control = Control(self._reload)
        self._sweeper.start()
        self._broadcast.start()
        self._acceptor = Acceptor(
            sockets,
            self._http.take,
            lambda: len(self._http) >= self._config.limits.connections,
            refuse(503, "too_many_connections", "there are as many connections as there may be; come back later"),
            clock.stand_still,
        )
        self._acceptor.start()
        self._take_back_connections()
        self._watchdog.start()
        logger.info(
            "registryd %s listening on %s http=%s store=%s heartbeat_timeout=%g cleanup_interval=%g pid=%d",
            __version__,
            ", ".join(map(self._url_of, sockets)),
            self._http_kind,
            self._store.kind,
            config.heartbeat_timeout,
            config.cleanup_interval,
            os.getpid(),
            extra={"event": "started", "version": __version__, "url": list(map(self._url_of, sockets))},
        )

    def _ready(self, sockets: list[socket.socket]) -> None:
        # What there is now stays: the garbage collector need not look at it again, and with what comes later, which is
        # made so that it is not tracked, it has little to do however many instances there are.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # as most that comes goes again, uncollected, with its request
        pulse = Pulse(self._registry, asyncio.get_running_loop().time)
        at = ", ".join(map(self._url_of, sockets))
        self._status = StatusLine(self._notifier, lambda: f"{at}: {pulse}")
        self._status.start("READY=1")
        if self._access.is_open and not all(map(is_loopback, sockets)):
            logger.warning(
                "everyone who can reach %s may register and deregister services: there is no access control; set "
                "--auth-file, listen on 127.0.0.1, or let a firewall choose who gets here",
                ", ".join(self._url_of(sock) for sock in sockets if not is_loopback(sock)),
                extra={
                    "event": "open_access",
                    "url": [self._url_of(sock) for sock in sockets if not is_loopback(sock)],
                },
            )

    def _daemon(self, clock: LeaseClock) -> Daemon:
        return Daemon(
            version=__version__,
            started_wall=int(clock.started_wall),
            heartbeat_timeout=self._config.heartbeat_timeout,
            cleanup_interval=self._config.cleanup_interval,
            store_kind=self._store.kind,
            uptime=clock.uptime,
            stalls=lambda: (clock.stalls, clock.stalled_seconds),
            connections_refused=lambda: self._acceptor.refused,
            reasons=self._reasons,
            unready=self._unready,
            vitals=self._vitals(),
        )

    def _hears(self) -> bool:
        """Whether everyone can be heard. To be asked at each beat."""
        return self._acceptor.hears() and self._context.overload.hears()

    def _vitals(self) -> Vitals:
        writes = self._store.writes
        vitals = Vitals(
            http_kind=self._http_kind,
            connections=lambda: len(self._http),
            lag=self._sweeper.lag,
            watchers_cut_off=lambda: self._broadcast.cut_off,
            entries_lost=lambda: self._change_log.lost,
        )
        if writes is not None:
            vitals.writes = writes.durations
            vitals.failed_writes, vitals.stored_bytes = lambda: writes.failed, lambda: writes.size
        return vitals

    def _reasons(self) -> list[str]:
        """What needs a human."""
        reasons = [
            (not self._sweeper.is_alive(), "sweep_late"),
            (self._store.trouble is not None, self._store.trouble or ""),
            (self._acceptor.is_refusing(), "refuses_connections"),
            (self._registry.suspects() > 0, "suspects"),
            (self._registry.is_recovering, "recovering"),
        ]
        return [reason for is_so, reason in reasons if is_so]

    def _unready(self) -> list[str]:
        """What serving needs and is not there."""
        stopping = ["draining"] if self._stopping.is_set() else []
        return stopping + (["recovering"] if self._registry.is_recovering else [])

    def _take_back_connections(self) -> None:
        """Goes on with the connections that the last of us has left with the service manager."""
        found = [take_back(handed.descriptor) for handed in self._handed if handed.name == CONNECTION]
        if found:
            self._notifier.remove(CONNECTION)  # or it would keep them open for ever
            kept = [connection for connection in found if connection is not None]
            for sock, address in kept:
                self._http.take(sock, address)
            logger.info(
                "connections kept=%d gone=%d", len(kept), len(found) - len(kept), extra={"event": "connections_kept"}
            )

    def _reload(self) -> Outcome:
        """Reads the settings again, and has those in force that can change while we run."""
        if self._stopping.is_set():
            return Outcome(False, ["registryd is stopping"])
        self._notifier.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            outcome = self._take_settings(self._load())
        except (BadSetting, BadAuthFile, CannotUseTls) as error:
            outcome = self._refuse(error)
        self._status.start("READY=1")
        return outcome

    def _refuse(self, error: Exception) -> Outcome:
        refusal = f"reload refused, nothing has changed: {error}"
        logger.error(refusal, extra={"event": "reload_refused"})
        return Outcome(False, [refusal])

    def _take_settings(self, wanted: Config) -> Outcome:
        differing = changes(self._config, wanted)
        # All that can be wrong, before anything is in force.
        callers, tls = callers_of(wanted), tls_of(wanted)
        if (callers is None and not self._access.is_open) or (tls is None and self._tls is not None):
            raise BadSetting(
                "access control and TLS end with a restart only: --auth-file or --tls-cert is not set any more"
            )
        self._access.take(callers)
        if callers is not None:
            self._broadcast.end_all()  # those who may go on to watch come again, with their last event
        self._tls = tls
        self._http.take_tls(tls)
        self._put_in_force(in_force(self._config, wanted))
        changed = ", ".join(str(change) for change in differing if change.setting.reloads)
        lines = [f"reloaded: {changed or 'no setting has changed'}"]
        if not self._access.is_open:
            lines[0] += f"; tokens, read anew: {len(self._access)}"
        logger.info(lines[0], extra={"event": "reloaded"})
        waiting = [change for change in differing if not change.setting.reloads]
        for change in waiting:
            lines.append(f"{change} needs a restart: systemctl restart registryd")
            logger.warning(lines[-1], extra={"event": "needs_restart"})
        return Outcome(not waiting, lines)

    def _put_in_force(self, config: Config) -> None:
        before, self._config = self._config, config
        self._change_log.set_level(config.log_level)
        self._context.daemon.heartbeat_timeout = self._state.default_ttl = config.heartbeat_timeout
        self._context.daemon.cleanup_interval = config.cleanup_interval
        self._state.suspect_share = config.suspect_share
        if config.cleanup_interval != before.cleanup_interval:
            self._sweeper.sweep_every(config.cleanup_interval)
        self._hosts.take(config.allow_hosts.split(","))
        if config.limits != before.limits:
            self._state.limits = config.limits
            self._feed.most_watchers = config.limits.watchers
            self._context.reader.take_limits(config.limits)
            self._context.overload.take_bounds(config.limits)
        self._http.take_limits(config.limits)  # even if they are the same: it forgets what it has learned of requests

    async def _stop(self) -> int:
        self._status.stop()
        self._control.stop()
        self._notifier.notify("STOPPING=1")
        self._acceptor.stop()
        can_be_kept = self._http_kind == "front" and self._tls is None  # what TLS has agreed on is in our memory
        is_keeping = can_be_kept and self._notifier.has_manager and self._config.keep_connections > 0
        if not is_keeping:
            self._http.wind_down()
        self._feed.close()
        self._broadcast.close()
        end = asyncio.get_running_loop().time() + self._config.drain_timeout
        kept = 0
        if is_keeping:
            kept = await self._leave_connections()
            self._http.wind_down()  # what is left closes with an answer, too
        if self._is_handed_over:
            await self._see_off()
            self._http.wind_down(at_once=True)
            end = max(end, asyncio.get_running_loop().time() + SEEING_OFF)
        cut = await self._drain(end)
        if cut:
            logger.warning(
                "stopping although requests are under way cut=%d", cut, extra={"event": "cut_off", "count": cut}
            )
        left = 0.0 if cut else max(0.0, end - asyncio.get_running_loop().time())
        unread = await self._close_http(left)
        if unread and not cut:
            logger.warning(
                "stopping although answers have not been read cut=%d",
                unread,
                extra={"event": "cut_off", "count": unread},
            )
        cut += unread
        closing = asyncio.ensure_future(self._store.close())
        await self._unless_forced(closing, max(SEEING_OFF, end - asyncio.get_running_loop().time()))
        if closing.cancelled():
            logger.warning("stopping although the store still waits for the disk", extra={"event": "store_unavailable"})
        self._watchdog.stop()  # not before: the disk may take its time
        self._sweeper.stop()
        if kept:
            logger.info("connections left=%d with the service manager", kept, extra={"event": "connections_kept"})
            self._notifier.wait_until_heard()
        self._change_log.flush()
        logger.info("stopped", extra={"event": "stopped"})
        return 1 if cut or closing.cancelled() else 0

    async def _leave_connections(self) -> int:
        """Leaves connections with the service manager, which hands them to the next of us, each as soon as it is idle:
        for a moment, as whoever comes new waits meanwhile. Gives back how many it has."""
        loop = asyncio.get_running_loop()
        end, room, kept = loop.time() + SEEING_OFF, self._config.keep_connections, 0

        def leave(*idle: Idle) -> bool:
            """Whether all have been left."""
            nonlocal kept
            some = idle[: room - kept]
            sent = self._notifier.store(CONNECTION, [connection.fileno() for connection in some])
            for connection in some[:sent]:
                connection.let_go()
            kept += sent
            return sent == len(idle)

        has_room = leave(*self._http.idle())
        self._http.tell_idle(leave)
        while True:
            await asyncio.sleep(0)  # they go
            if not len(self._http) or not has_room or loop.time() >= end or self._forced.is_set():
                break
            await asyncio.sleep(LOOK)
            has_room = leave(*self._http.idle())
        self._http.tell_idle(None)
        return kept

    async def _see_off(self) -> None:
        """Serves for a moment those who are connected: their connections close with an answer, and they come again by
        the socket, which stays open for the next of us. Whoever asks for nothing meanwhile is closed after it."""
        await self._unless_forced(asyncio.ensure_future(self._http.empty()), SEEING_OFF)

    async def _close_http(self, seconds: float) -> int:
        """Closes all connections; at once, after a second signal."""
        closing = asyncio.ensure_future(self._http.close(seconds))
        await self._unless_forced(closing, None)
        return await self._http.close(0) if closing.cancelled() else closing.result()

    async def _drain(self, end: float) -> int:
        """Waits until what has begun is answered: not for ever, and not after a second signal. Gives back how much is
        not. What is still arriving is waited for, too, unless others wait for the next of us meanwhile."""
        under_way, others_wait = self._under_way, self._is_handed_over
        while under_way.has_some(arrived=others_wait) and not self._forced.is_set():
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._unless_forced(asyncio.ensure_future(under_way.wait_until_none(arrived=others_wait)), left)
        return len(under_way)

    async def _unless_forced(self, ending: "asyncio.Future[Any]", seconds: float | None) -> None:
        """Waits for the end of something, which is cancelled at a second signal or when the time is up."""
        forced = asyncio.ensure_future(self._forced.wait())
        await asyncio.wait({ending, forced}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not ending.done():
            ending.cancel()
            await asyncio.wait({ending})

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            logger.warning(
                "%s again: stopping at once", number.name, extra={"event": "stopping", "reason": number.name}
            )
            self._forced.set()
        else:
            logger.info(
                "%s: stopping after %d requests under way",
                number.name,
                len(self._under_way),
                extra={"event": "stopping", "reason": number.name, "count": len(self._under_way)},
            )
            self._stopping.set()


def callers_of(config: Config) -> Callers | None:
    """Who may ask; None: everyone. Raises BadAuthFile."""
    return read(config.auth_file) if config.auth_file else None


def tls_of(config: Config) -> ssl.SSLContext | None:
    """What TLS is spoken with, if it is. Raises CannotUseTls."""
    if config.tls_cert:
        return make_context(config.tls_cert, config.tls_key, config.tls_client_ca)
    if config.tls_key or config.tls_client_ca:
        raise CannotUseTls("--tls-key and --tls-client-ca are for TLS, which needs --tls-cert")
    return None


def choose_http(asked: str) -> str:
    """Which HTTP server it is to be, `front` or `tornado`. Raises NotInstalled."""
    if asked == "auto":
        return "front" if find_spec("httptools") else "tornado"
    if asked == "front" and not find_spec("httptools"):
        raise NotInstalled(
            "--http front needs httptools: install registryd with its extra, registryd[speed], or leave --http out"
        )
    return asked


def loop_factory(http: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop: uvloop under the front, where it is installed, else (None) asyncio itself."""
    if http == "front" and find_spec("uvloop"):
        import uvloop

        return uvloop.new_event_loop
    return None


class Pulse:
    """The registry in a line for people. Its rate is that since it was last asked, when that is a while ago."""

    def __init__(self, registry: Registry, time: Callable[[], float]) -> None:
        self._registry = registry
        self._time = time
        self._looked_at = time()
        self._renewed = registry.tally().renewed
        self._rate = 0.0

    def __str__(self) -> str:
        tally, now = self._registry.tally(exact=False), self._time()
        if now - self._looked_at >= 1:
            self._rate = (tally.renewed - self._renewed) / (now - self._looked_at)
            self._looked_at, self._renewed = now, tally.renewed
        return (
            f"{_count(tally.instances, 'instance')} of {_count(tally.services, 'service')}, "
            f"{_count(tally.watchers, 'watcher')}, {self._rate:.0f} heartbeats/s"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class Idle(Protocol):
    """A connection that could go on without us."""

    def fileno(self) -> int: ...

    def let_go(self) -> None:
        """Closes our descriptor, and not the connection."""


class HttpServer(Protocol):
    """What either HTTP server is to the daemon."""

    def __len__(self) -> int: ...

    def take(self, connection: socket.socket, address: object) -> None:
        """Serves an accepted connection."""

    def take_tls(self, tls: ssl.SSLContext | None) -> None:
        """Serves connections that come from now on with this, or without TLS; those that are there go on."""

    def take_limits(self, limits: Limits) -> None:
        """Takes requests under these limits from now on, as far as that is not the reader's business."""

    def wind_down(self, *, at_once: bool = False) -> None:
        """Closes each connection after its next answer, which says so; `at_once`, even where more has been asked."""

    def idle(self) -> Sequence[Idle]:
        """The connections that could go on without us."""

    def tell_idle(self, take: Callable[[Idle], bool] | None) -> None:
        """Has someone take each connection as soon as it is idle, who says whether he has; None: nobody any more."""

    async def empty(self) -> None:
        """Waits until no connection is left."""

    async def close(self, seconds: float) -> int:
        """Closes all connections, after so many seconds at the latest; gives back how many were cut off."""


def make_application(context: Context, broadcast: Broadcast) -> Application:
    """Every face of the registry."""
    routes = v1.routes(context) + watch.routes(context, broadcast) + sd.routes(context) + metrics.routes(context)
    return Application(
        list(named(routes + openapi.routes(context, routes) + page.routes(context))),
        default_handler_class=UnknownPathHandler,
        default_handler_args={"context": context},
        log_function=Handler.note_answer,  # no line per request
    )


def make_http_server(kind: str, application: Application, context: Context) -> HttpServer:
    """The HTTP server of this kind (`front` or `tornado`) with the application behind it; it listens to nothing."""
    if kind == "tornado":
        return IntakeServer(application, context)
    from registryd.front.connection import Shared, Timeouts
    from registryd.front.server import FrontServer

    hot = HotCalls(context)
    shared = Shared(
        Intake(application, context),
        hot.table(),
        refuse_counted(context.traffic),
        Timeouts(IDLE_TIMEOUT, BODY_TIMEOUT, UNREAD_TIMEOUT),
        context.reader.limits,
        PATIENCE,
        context.hosts.knows,
        context.overload,
        hot.timed,
    )
    return FrontServer(shared)
