"""The sockets that the daemon listens on: bound early, served later."""

import ipaddress
import os
import socket

BACKLOG = 4096


class CannotListen(Exception):
    """The address cannot be listened on; the text is one line that says why and what to do."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of `host`; with port 0 all on the same free one. Raises CannotListen."""
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host):
            sock = socket.create_server((address, port), family=family, backlog=BACKLOG)
            sock.setblocking(False)
            sockets.append(sock)
            port = sock.getsockname()[1]
    except socket.gaierror as error:
        raise CannotListen(f"cannot find an address for host {host!r}: {error.strerror}; set --host") from None
    except OSError as error:
        for sock in sockets:
            sock.close()
        why = os.strerror(error.errno) if error.errno else str(error)
        raise CannotListen(f"cannot listen on {host} port {port}: {why}; set --host or --port") from None
    return sockets


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def url_of(sock: socket.socket) -> str:
    """The URL at which a listening socket is reached."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach a listening socket."""
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
