"""The last things that happened to each instance, for whoever asks why. Bounded for each and in all."""

from collections import deque

from registryd.core.model import Change

#: Events remembered of each instance, and of all together.
EVENTS_EACH = 20
EVENTS_IN_ALL = 100_000


class History:
    """Changes by instance id, the latest last."""

    def __init__(self, *, events_in_all: int = EVENTS_IN_ALL) -> None:
        self._in_all = events_in_all
        #: Every remembered change, the oldest first; some may be gone from _by_id already.
        self._order: deque[Change] = deque()
        self._by_id: dict[str, deque[Change]] = {}

    def note(self, change: Change) -> None:
        """Remembers a change."""
        instance_id = change.instance.instance_id
        events = self._by_id.get(instance_id)
        if events is None:
            events = self._by_id[instance_id] = deque(maxlen=EVENTS_EACH)
        events.append(change)
        self._order.append(change)
        if len(self._order) > self._in_all:
            self._forget(self._order.popleft())

    def of(self, instance_id: str) -> list[Change]:
        """What is remembered of an instance, the oldest first."""
        return list(self._by_id.get(instance_id, ()))

    def of_service(self, service_name: str) -> list[str]:
        """The ids of the instances whose last remembered change was in this service."""
        return [
            instance_id
            for instance_id, events in self._by_id.items()
            if events[-1].instance.service_name == service_name
        ]

    def _forget(self, change: Change) -> None:
        events = self._by_id.get(change.instance.instance_id)
        if events and events[0] is change:
            events.popleft()
            if not events:
                del self._by_id[change.instance.instance_id]
