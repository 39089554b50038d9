"""How `registryd --reload PID` has a running daemon read its settings again, and hears what came of it.

A signal has no answer, and the daemon has no folder to leave one in: so there is a Unix socket in the abstract
namespace, which belongs to the network namespace and needs no file. Who connects has asked for a reload; the answer is
a line of JSON.
"""

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

logger = logging.getLogger(__name__)

#: Seconds in which a daemon must answer.
SECONDS = 10.0
_CREDENTIALS = struct.Struct("3i")


class Outcome(NamedTuple):
    """What came of a reload: whether all settings are in force now, and what there is to say."""

    is_good: bool
    lines: list[str]


class Control:
    """The daemon's end: has `reload` called for whoever asks and is root or ourselves."""

    def __init__(self, reload: Callable[[], Outcome]) -> None:
        self._reload = reload
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Starts to listen; where that cannot be, it is logged, and SIGHUP is left."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(_address(os.getpid()))
            self._server = await asyncio.start_unix_server(self._answer, sock=sock)
        except OSError as error:
            sock.close()
            logger.warning("registryd --reload will not get through: %s; kill -HUP does", os.strerror(error.errno or 0))

    def stop(self) -> None:
        """Stops to listen."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:  # noqa: ARG002
        _, uid = _who(writer.get_extra_info("socket"))
        if uid in (0, os.geteuid()):
            outcome = self._reload()
            writer.write(json.dumps(outcome._asdict()).encode() + b"\n")
        else:
            logger.warning("a process of user %d asked for a reload, which is for root and our own user", uid)
        writer.close()


def ask(pid: int, seconds: float = SECONDS) -> Outcome:
    """Has the daemon `pid` reload. Whatever goes wrong is an outcome, too."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(seconds)
            sock.connect(_address(pid))
            if _who(sock)[0] != pid:  # anyone can take a name that is free
                raise ConnectionRefusedError
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
    except TimeoutError:
        return Outcome(False, [f"process {pid} has not answered within {seconds:g} s; its log may say more"])
    except OSError:
        return Outcome(
            False,
            [f"process {pid} is no registryd that can be asked from here (with a network of its own: nsenter -n)"],
        )
    if not answer:
        return Outcome(False, [f"process {pid} has refused; it takes this from root and from its own user"])
    return Outcome(**json.loads(answer))


def _address(pid: int) -> str:
    return f"\0registryd-{pid}-control"


def _who(sock: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid
