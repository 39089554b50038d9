"""Keeps pages of other sites from driving a registry through the browser of someone who can reach it.

A browser says in Host by which name it came here, and in Origin which site's page has a request made. A page can have
its own name lead to our address (DNS rebinding), but not make the browser say another. So we answer to names that are
ours, and to addresses, which are nobody's names; and what a page of another site wants to change is refused.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable

from registryd.core.errors import ECHO, RegistrydError

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(:[0-9]*)?")
#: What changes nothing, so that a page may ask for it; it does not get to see the answer (no CORS).
_SAFE = {"GET", "HEAD", "OPTIONS"}

#: Spellings of hosts that are remembered.
MOST_FOUND = 1_000


class UnknownHost(RegistrydError):
    """The request is for a host that is not known to be us."""

    code = "unknown_host"

    def __init__(self, host: str) -> None:
        super().__init__(
            f"this registry does not know that it is called {host[:ECHO]!r}; name it in --allow-hosts, or ask "
            "for its address"
        )


class ForeignOrigin(RegistrydError):
    """A page of another site wants to change something."""

    code = "foreign_origin"

    def __init__(self, origin: str) -> None:
        super().__init__(
            f"a page of {origin[:ECHO]!r} may not change anything here; if it is one of yours, name its host in "
            "--allow-hosts"
        )


class Hosts:
    """The names by which the registry is asked for: `names`, and those that are its own anyway. `*` is any name."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.take(names)

    def take(self, names: Iterable[str]) -> None:
        """Answers to these names from now on."""
        self._given = {name.lower().rstrip(".") for name in names if name}
        self._is_open = "*" in self._given
        self._names = self._given | {"localhost", socket.gethostname().lower()}
        #: What has been found to be for us: mostly it is the same again.
        self._found: set[str] = set()

    def knows(self, host: str) -> bool:
        """Whether a request with this Host is for us."""
        if self._is_open or host in self._found:
            return True
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts["name"].lower().rstrip(".")
        if not (name in self._names or name.endswith(".localhost") or _is_address(name)):
            return False
        if len(self._found) < MOST_FOUND:
            self._found.add(host)
        return True

    def check(self, method: str, host: str | None, origin: str | None) -> None:
        """Raises UnknownHost, ForeignOrigin."""
        if host is not None and not self.knows(host):
            raise UnknownHost(host)
        if origin is not None and method not in _SAFE and not self._is_own(origin, host):
            raise ForeignOrigin(origin)

    def _is_own(self, origin: str, host: str | None) -> bool:
        """Whether it is what a page of ours says, perhaps of one behind a proxy that has asked for another name."""
        _, separator, site = origin.lower().partition("://")
        if not separator:  # "null": a page that does not say
            return False
        parts = _HOST.fullmatch(site)
        return site == (host or "").lower() or (parts is not None and parts["name"] in self._given)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
