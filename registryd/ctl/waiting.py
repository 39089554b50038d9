"""Waiting for a service, and for readers to have forgotten an instance, over losses of the registry."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from registryd.client.answers import TIMEOUT
from registryd.client.errors import Refused, RegistryUnreachable
from registryd.client.http import Client
from registryd.ctl.calls import call

#: Seconds between two tries, and between two looks.
PAUSE = 0.5
#: Seconds within which two moments may look like one, as the registry tells them in whole seconds.
GRAIN = 1.0
#: The longest that the registry is asked to wait, in seconds.
LONGEST_WAIT = 60.0
#: Statuses of a registry that is there and cannot do it now.
_NOT_NOW = {429, 500, 502, 503, 504}


class TooLate(Exception):
    """The time is up."""


def wait_for_instances(
    client: Client,
    name: str,
    query: list[tuple[str, str]],
    least: int,
    timeout: float,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
) -> Any:
    """The list, as soon as it has so many. Raises TooLate; what was wrong last where that is the reason; and at once
    Refused for what would be refused again."""
    end = clock() + timeout
    while True:
        seconds = max(0.0, min(end - clock(), LONGEST_WAIT))
        asked = urlencode([*query, ("min", str(least)), ("wait", f"{seconds:.3f}")])
        trouble: Exception = TooLate()
        try:
            path = f"/services/{quote(name, safe='')}?{asked}"
            return call(client, "GET", path, timeout=seconds + TIMEOUT, instances=list)
        except RegistryUnreachable as error:
            trouble = error
        except Refused as error:
            if error.status in _NOT_NOW:
                trouble = error
            elif error.status != 408:
                raise
        if clock() >= end:
            raise trouble
        if not isinstance(trouble, TooLate):
            sleep(min(PAUSE, max(0.0, end - clock())))


def wait_until_forgotten(
    last_handed_out_at: Callable[[], object],
    quiet: float,
    timeout: float,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
) -> None:
    """Returns when what it looks at has stood still for `quiet` seconds for sure. Raises TooLate, and
    whatever looking does."""
    begin = since = clock()
    seen = last_handed_out_at()
    while (now := clock()) - since < quiet + GRAIN:
        if now - begin >= timeout:
            raise TooLate
        sleep(min(PAUSE, quiet))
        if (looked := last_handed_out_at()) != seen:
            seen, since = looked, clock()
