"""The life of the daemon: the only place that knows all the others. Start, run, stop, in a written order."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Mapping

from tornado.httpserver import HTTPServer
from tornado.web import Application

from registryd import __version__, logs
from registryd.api import v1
from registryd.api.base import UnknownPathHandler
from registryd.api.context import Context, Daemon, UnderWay
from registryd.api.intake import PATIENCE, Intake
from registryd.api.reader import Reader
from registryd.clock import LeaseClock, MonotonicIOLoop
from registryd.config import Config
from registryd.core.limits import Limits
from registryd.core.state import State
from registryd.feed import Feed
from registryd.listeners import is_loopback, listen, url_of
from registryd.registry import Registry
from registryd.store.base import MemoryStore
from registryd.sweeper import Sweeper
from registryd.systemd import Notifier, Watchdog, watchdog_seconds

logger = logging.getLogger(__name__)

#: Seconds that a connection may wait between two requests, or take for a header block; and for a body.
IDLE_TIMEOUT = 75.0
BODY_TIMEOUT = 30.0


class Server:
    """One daemon. `await run()` from a new asyncio loop; it gives back the exit status."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._config = config
        self._notifier = Notifier.from_environment(environ)
        self._watchdog_seconds = watchdog_seconds(environ, os.getpid())
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._under_way = UnderWay()

    async def run(self) -> int:
        """Serves until a signal comes. 0: everything under way was answered; 1: something was cut off.
        Raises CannotListen."""
        MonotonicIOLoop()
        sockets = listen(self._config.host, self._config.port)
        self._take_signals()
        self._start(sockets)
        await self._stopping.wait()
        return await self._stop()

    def _start(self, sockets: list[socket.socket]) -> None:
        config = self._config
        clock = LeaseClock()
        self._store = MemoryStore(index=int(clock.started_wall * 1e6))
        feed = Feed(self._store.index)
        feed.subscribe(logs.log_change)
        state = State(default_ttl=config.heartbeat_timeout, limits=config.limits)
        registry = Registry(state, self._store, feed, clock)
        self._sweeper = Sweeper(registry, clock, config.cleanup_interval)
        self._watchdog = Watchdog(self._notifier, self._watchdog_seconds, self._sweeper.is_alive)
        self._http = make_http_server(registry, self._daemon(clock), self._under_way, config.limits)
        self._sweeper.start()
        self._http.add_sockets(sockets)
        self._watchdog.start()
        self._notifier.notify("READY=1", f"STATUS=Serving {', '.join(map(url_of, sockets))}")
        logger.info(
            "registryd %s listening on %s store=%s heartbeat_timeout=%g cleanup_interval=%g pid=%d",
            __version__,
            ", ".join(map(url_of, sockets)),
            self._store.kind,
            config.heartbeat_timeout,
            config.cleanup_interval,
            os.getpid(),
        )
        if not all(map(is_loopback, sockets)):
            logger.warning(
                "everyone who can reach %s may register and deregister services: there is no access control; "
                "listen on 127.0.0.1, or let a firewall choose who gets here",
                ", ".join(url_of(sock) for sock in sockets if not is_loopback(sock)),
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
            reasons=lambda: [] if self._sweeper.is_alive() else ["sweep_late"],
            unready=lambda: ["draining"] if self._stopping.is_set() else [],
        )

    async def _stop(self) -> int:
        self._notifier.notify("STOPPING=1")
        self._http.stop()
        await self._drain()
        cut = len(self._under_way)
        if cut:
            logger.warning("stopping although requests are under way cut=%d", cut)
        await self._http.close_all_connections()
        self._watchdog.stop()
        self._sweeper.stop()
        await self._store.close()
        logger.info("stopped")
        return 1 if cut else 0

    async def _drain(self) -> None:
        """Waits until what has begun is answered: not for ever, and not after a second signal."""
        ends = [asyncio.ensure_future(self._under_way.wait_until_none()), asyncio.ensure_future(self._forced.wait())]
        await asyncio.wait(ends, timeout=self._config.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            logger.warning("%s again: stopping at once", number.name)
            self._forced.set()
        else:
            logger.info("%s: stopping after %d requests under way", number.name, len(self._under_way))
            self._stopping.set()


def make_http_server(registry: Registry, daemon: Daemon, under_way: UnderWay, limits: Limits) -> HTTPServer:
    """Tornado's HTTP server with every face of the registry behind it; it listens to nothing yet."""
    context = Context(registry, Reader(limits), daemon, under_way)
    application = Application(
        v1.routes(context),
        default_handler_class=UnknownPathHandler,
        default_handler_args={"context": context},
        log_function=lambda handler: None,  # noqa: ARG005 - no line per request
    )
    return HTTPServer(
        Intake(application, limits, under_way),
        # The intake limits bodies and headers, with an answer. Tornado would close the connection without one, so
        # its own limits are further out.
        max_body_size=2**62,
        max_header_size=PATIENCE * (limits.header_bytes + limits.url_bytes),
        idle_connection_timeout=IDLE_TIMEOUT,
        body_timeout=BODY_TIMEOUT,
    )
