"""The last things that happened to each instance, for whoever asks why. Bounded for each and in all."""

from collections import OrderedDict

from registryd.core.model import Change, bulk

#: Events remembered of each instance, and of all together.
EVENTS_EACH = 20
EVENTS_IN_ALL = 100_000
#: Bytes that their metadata and tags may take.
MOST_BULK = 64 * 1024 * 1024


class History:
    """Changes by instance id, the latest last. Where there are too many, what goes first is all that is remembered of
    the instance that has not changed for the longest time."""

    def __init__(self, *, events_in_all: int = EVENTS_IN_ALL) -> None:
        self._in_all = events_in_all
        #: How many are remembered.
        self._count = 0
        #: Bytes of their instances beyond what each takes.
        self._bulk = 0
        #: The longest unchanged first. In tuples, which the garbage collector soon need not look at any more; most have
        #: one change.
        self._by_id: OrderedDict[str, tuple[Change, ...]] = OrderedDict()

    def note(self, change: Change) -> None:
        """Remembers a change."""
        instance_id = change.instance.instance_id
        before = self._by_id.pop(instance_id, None)
        self._bulk += bulk(change.instance)
        if before is None:
            self._by_id[instance_id] = (change,)
            self._count += 1
        else:
            events = self._by_id[instance_id] = (*before[1 - EVENTS_EACH :], change)
            self._count += len(events) - len(before)
            if len(before) == EVENTS_EACH:
                self._bulk -= bulk(before[0].instance)
        while self._count > self._in_all or self._bulk > MOST_BULK:
            _, forgotten = self._by_id.popitem(last=False)
            self._count -= len(forgotten)
            self._bulk -= sum(bulk(change.instance) for change in forgotten)

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
