"""Keeps an instance registered from when its port answers until it is told to leave, in a thread of its own."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from registryd.client.blocking import registered
from registryd.client.errors import BadSetting, RegistrationRefused

logger = logging.getLogger("registryd.client")

#: Seconds between two looks whether the port answers, and that one may take.
PROBE_PAUSE = 0.1
PROBE_TIMEOUT = 1.0
#: Seconds before the registry is asked again that has refused.
REFUSED_PAUSE = 30.0
#: The port of a URL that names none.
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Announcer:
    """One instance. `when_left` is called by its thread when it is off the list, with whether it may have been on."""

    def __init__(
        self, service: str, url: str, about: dict[str, Any], probe: tuple[str, int], when_left: Callable[[bool], None]
    ) -> None:
        self._service = service
        self._url = url
        self._about = about
        self._probe = probe
        self._when_left = when_left
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._announce, name="registryctl announcer", daemon=True)

    def start(self) -> None:
        """Begins to look whether its port answers."""
        self._thread.start()

    def leave(self) -> None:
        """Has it taken off the list."""
        self._leaving.set()

    def _announce(self) -> None:
        was_listed = False
        try:
            while not answers(self._probe):
                if self._leaving.wait(PROBE_PAUSE):
                    return
            while not self._leaving.is_set():
                try:
                    with registered(self._service, self._url, **self._about):
                        was_listed = True
                        self._leaving.wait()
                except (RegistrationRefused, BadSetting) as error:
                    logger.warning("%s; trying again in %g s", error, REFUSED_PAUSE)
                    self._leaving.wait(REFUSED_PAUSE)
        finally:
            self._when_left(was_listed)


def answers(endpoint: tuple[str, int]) -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(endpoint, timeout=PROBE_TIMEOUT):
        return True
    return False


def endpoint_of(url: str) -> tuple[str, int] | None:
    """Where a URL leads; None where that cannot be told."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
        if parts.hostname and port:
            parts.hostname.encode("idna")  # as whoever looks for its address does
            return parts.hostname, port
    return None
