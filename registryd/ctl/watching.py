"""The events of /watch over losses of the registry."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from registryd.client.errors import RegistryUnreachable
from registryd.client.events import Event
from registryd.client.http import Client

#: Seconds before the registry is asked again; doubled from try to try, up to the longest.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
#: What every instance has.
NAMED = {"instance_id", "service_name", "status"}


def instances_of(event: Event) -> list[dict[str, Any]]:
    """The instances that an event tells of: one, all for a snapshot, none for a kind that we do not know."""
    data = event.data if isinstance(event.data, dict) else {}
    told = data.get("instances") if event.kind == "snapshot" else [data]
    return [one for one in told or () if isinstance(one, dict) and one.keys() >= NAMED]


class Watch:
    """The events of some services (none: all), for ever. `lost` is told why, when the registry has gone, and `found`
    when it is there again, whether nothing was missed."""

    def __init__(
        self,
        client: Client,
        services: Sequence[str],
        lost: Callable[[str], None],
        found: Callable[[bool], None],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._client = client
        self._services = services
        self._lost = lost
        self._found = found
        self._sleep = sleep
        self._last_index: int | None = None
        self._is_begun = False
        self._is_lost = False
        self._pause = FIRST_PAUSE

    def events(self) -> Iterator[Event]:
        """All but comments. Raises RegistryUnreachable where there is no registry at first, Refused, BadSetting."""
        while True:
            trouble = "it has ended the watch"
            try:
                for event in self._client.watch(self._services, self._last_index):
                    yield from self._take(event)
            except RegistryUnreachable as error:
                if not self._is_begun:
                    raise
                trouble = str(error)
            self._wait(trouble)

    def _take(self, event: Event) -> Iterator[Event]:
        self._is_begun = True
        if self._is_lost:
            self._is_lost = False
            self._found(event.kind != "snapshot")
        self._pause = FIRST_PAUSE
        if event.kind:
            self._last_index = event.index
            yield event

    def _wait(self, trouble: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._lost(trouble)
        self._sleep(self._pause)
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
