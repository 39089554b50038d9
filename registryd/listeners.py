"""The sockets that the daemon listens on: bound early, served later."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import math
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from registryd.overload import AGAIN, Rarely

logger = logging.getLogger(__name__)

BACKLOG = 4096
#: Seconds for which nothing is accepted when there is no file descriptor left.
REST = 0.5
#: Connections beyond the limit that may read their refusal at the same time, and seconds in which to do so.
MOST_TURNED_AWAY = 100
LINGER = 1.0
#: The same for someone whom the system has dropped: it tries again after one second, and then after two more.
QUEUE_AGAIN = 4.0
#: Connections that are accepted before those that are here have their turn.
ACCEPTS = 64
#: Of struct tcp_info (linux/tcp.h) what a listening socket says of its queue: how many wait, and how many may.
_TCP_INFO = struct.Struct("24xII")
#: What says that this machine has no such address, or no such family of them; and that we are out of something.
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class CannotListen(Exception):
    """There is nothing to listen on; the text is one line that says why and what to do."""


class AddressUnavailable(CannotListen):
    """The address cannot be listened on, which may be otherwise later: who has it goes, the network comes."""


def adopt(name: str, descriptor: int) -> socket.socket:
    """The socket that the service manager has bound, under a name, and handed over. Raises CannotListen."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise CannotListen(
            f"what the service manager hands over as {name!r} is no socket: {os.strerror(error.errno or 0)}"
        ) from None
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise CannotListen(
            f"the socket that the service manager hands over as {name!r} does not listen; its unit needs "
            "ListenStream= and Accept=no"
        )
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def take_back(descriptor: int) -> tuple[socket.socket, Any] | None:
    """A connection that the service manager has kept, with its other side's address; None where that has gone."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:  # it is no socket
        os.close(descriptor)
        return None
    sock.set_inheritable(False)
    sock.setblocking(False)
    try:
        return sock, sock.getpeername()
    except OSError:
        sock.close()
        return None


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`; with port 0 all on the same free one. Raises CannotListen."""
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    try:
        addresses = _addresses(host)
    except UnicodeError:
        raise CannotListen(f"cannot find an address for host {host!r}: that is no host name; set --host") from None
    except socket.gaierror as error:
        why = error.strerror
        raise AddressUnavailable(f"cannot find an address for host {host!r}: {why}; set --host") from None
    for family, address in addresses:
        try:
            sock = socket.create_server((address, port), family=family, backlog=BACKLOG)
        except OSError as error:
            failure = error
            if error.errno in _NOT_HERE:  # another address of this host may be
                continue
            break
        sock.setblocking(False)
        sockets.append(sock)
        port = sock.getsockname()[1]
    if failure is not None and (not sockets or failure.errno not in _NOT_HERE):
        for sock in sockets:
            sock.close()
        why = os.strerror(failure.errno) if failure.errno else str(failure)
        kind = CannotListen if failure.errno == errno.EACCES else AddressUnavailable
        raise kind(f"cannot listen on {host} port {port}: {why}; set --host or --port")
    return sockets


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The numeric addresses of a host, an IPv6 one with its scope."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return list(dict.fromkeys((family, socket.getnameinfo(address, numeric)[0]) for family, _, _, _, address in found))


class Acceptor:
    """Accepts connections and hands them on, and takes a rest when the process has no file descriptor left: the
    connections that there are go on, and those that wait are accepted when some have gone."""

    def __init__(
        self,
        sockets: list[socket.socket],
        take: Callable[[socket.socket, Any], None],
        is_full: Callable[[], bool] = lambda: False,
        refusal: bytes = b"",
        on_refused: Callable[[], None] = lambda: None,
    ) -> None:
        self._sockets = sockets
        self._take = take
        #: Whether there is no room for another connection; it gets the refusal then, and someone is told.
        self._is_full = is_full
        self._refusal = refusal
        self._turned_away: set[socket.socket] = set()
        self._on_refused = on_refused
        #: Until when (by the loop) those who come may have to be refused, as far as is known.
        self._refuses_until = -math.inf
        #: How many were refused.
        self.refused = 0
        #: How many connections of each socket were taken from its queue, and how many have to be until all are in who
        #: waited there at the last look.
        self._accepted = dict.fromkeys(sockets, 0)
        self._awaited = dict.fromkeys(sockets, 0)
        self._loop = asyncio.get_running_loop()
        self._rests: dict[socket.socket, asyncio.TimerHandle] = {}
        self._rarely = Rarely(logger, self._loop.time)

    def start(self) -> None:
        """Starts to accept."""
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def stop(self) -> None:
        """Stops to accept, and closes the sockets."""
        for rest in self._rests.values():
            rest.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for connection in list(self._turned_away):
            self._let_go(connection)

    def is_refusing(self) -> bool:
        """Whether someone was refused, and still would be or has not had the time to come again."""
        now = self._loop.time()
        if now < self._refuses_until and self._is_full():
            self._refuses_until = max(self._refuses_until, now + AGAIN)
        return now < self._refuses_until

    def hears(self) -> bool:
        """Whether everyone can be heard: nobody is refused, and all who waited to be accepted when it was so the last
        time have been. Each connection in a long queue may have come with a heartbeat, so no time counts until it is
        its turn. To be asked at each beat."""
        if self.is_refusing():
            return False
        for sock in self._sockets:
            waiting = _queue(sock)[0]
            if waiting and self._accepted[sock] < self._awaited[sock]:
                self._on_refused()
                return False
            self._awaited[sock] = self._accepted[sock] + waiting
        return True

    def _refuse(self, seconds: float = AGAIN) -> None:
        self._refuses_until = max(self._refuses_until, self._loop.time() + seconds)
        self._on_refused()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(ACCEPTS):
            try:
                connection, address = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _SHORT:
                    self._rest(sock, error)
                    return
                self._accepted[sock] += 1
                continue  # that one has gone again
            self._accepted[sock] += 1
            if self._is_full():
                self._turn_away(connection)
            else:
                self._take(connection, address)
        if _has_full_queue(sock):
            self._refuse(QUEUE_AGAIN)
            self._rarely.warn(
                "accept_queue_full",
                "connections come faster than they can be accepted, so that the system drops some, and no lease ends "
                "meanwhile",
            )

    def _turn_away(self, connection: socket.socket) -> None:
        """Says why, and closes: a moment later, as TCP takes back what was said when it closes on unread bytes."""
        self.refused += 1
        self._refuse()
        self._rarely.warn(
            "too_many_connections",
            "there are as many connections as there may be (--max-connections); those that come get a 503, and no "
            "lease ends meanwhile",
        )
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # it has gone, or does not listen
            connection.send(self._refusal)
            connection.shutdown(socket.SHUT_WR)
        if len(self._turned_away) >= MOST_TURNED_AWAY:
            connection.close()
            return
        self._turned_away.add(connection)
        self._loop.call_later(LINGER, self._let_go, connection)

    def _let_go(self, connection: socket.socket) -> None:
        self._turned_away.discard(connection)
        connection.close()

    def _rest(self, sock: socket.socket, error: OSError) -> None:
        self._refuse()
        self._rarely.warn(
            "out_of_descriptors",
            f"cannot accept a connection: {error.strerror}; those that wait come later, and no lease ends meanwhile. "
            "Raise the limit (LimitNOFILE=, ulimit -n)",
        )
        self._loop.remove_reader(sock)
        self._rests[sock] = self._loop.call_later(REST, self._loop.add_reader, sock, self._accept, sock)


def _queue(sock: socket.socket) -> tuple[int, float]:
    """How many connections wait to be accepted, and how many may. A Unix socket does not say, but tells its clients."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return 0, math.inf
    waiting, most = _TCP_INFO.unpack(info)
    return waiting, most


def _has_full_queue(sock: socket.socket) -> bool:
    """Whether as many connections wait to be accepted as may, or nearly: the system drops those beyond."""
    waiting, most = _queue(sock)
    return waiting + ACCEPTS >= most


def allow_many_connections() -> int:
    """Raises the soft limit on file descriptors to the hard one, which it gives back: the usual 1,024 is for programs
    with select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def url_of(sock: socket.socket, scheme: str = "http") -> str:
    """The URL at which a listening socket is reached; a Unix socket has none, but a path."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach a listening socket."""
    return sock.family == socket.AF_UNIX or ipaddress.ip_address(sock.getsockname()[0]).is_loopback
