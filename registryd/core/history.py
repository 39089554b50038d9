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
        #: Every remembered change, the oldest first; and some that are gone from _by_id already.
        self._order: deque[Change] = deque()
        #: How many are remembered.
        self._count = 0
        #: In tuples, which the garbage collector soon need not look at any more; most have one change.
        self._by_id: dict[str, tuple[Change, ...]] = {}

    def note(self, change: Change) -> None:
        """Remembers a change."""
        instance_id = change.instance.instance_id
        before = self._by_id.get(instance_id, ())
        events = self._by_id[instance_id] = (*before[1 - EVENTS_EACH :], change)
        self._order.append(change)
        self._count += len(events) - len(before)
        while self._count > self._in_all:
            self._forget(self._order.popleft())
        if len(self._order) > 2 * self._in_all:  # most are of a busy few, and dropped long since
            self._order = deque(one for one in self._order if self._is_kept(one))

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

    def _is_kept(self, change: Change) -> bool:
        events = self._by_id.get(change.instance.instance_id)
        return events is not None and change.index >= events[0].index

    def _forget(self, change: Change) -> None:
        if self._is_kept(change):
            instance_id = change.instance.instance_id
            events = self._by_id[instance_id][1:]
            self._count -= 1
            if events:
                self._by_id[instance_id] = events
            else:
                del self._by_id[instance_id]
