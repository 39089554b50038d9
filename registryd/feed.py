"""What has changed last: the index of the whole registry and of each service, and whoever wants to be told.

The index is one counter for everything (the store hands the numbers out). A service's own index is the number of
the last change to it, so that a reader of one list is not troubled by the others.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from registryd.core.model import Change

Subscriber = Callable[[Change], None]


class Feed:
    """Knows the index, and passes every change on to its subscribers, once and in order."""

    def __init__(self, index: int, *, remembered_services: int = 100_000) -> None:
        #: The number of the last change to anything.
        self.index = index
        self._remembered = remembered_services
        #: The number of the last change to each service, the longest unchanged first; of those that are gone too.
        self._by_service: OrderedDict[str, int] = OrderedDict()
        #: A service that is not in there has not changed since this one.
        self._floor = index
        self._subscribers: list[Subscriber] = []

    def index_of(self, service_name: str) -> int:
        """A number since which this service has not changed; it never goes back."""
        return self._by_service.get(service_name, self._floor)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Has every later change passed to `subscriber`, which must not raise."""
        self._subscribers.append(subscriber)

    def publish(self, changes: Iterable[Change]) -> None:
        """Passes on changes that have come true. Their numbers must be higher than all before."""
        for change in changes:
            assert change.index > self.index, "the index never goes back"
            self.index = change.index
            self._note(change.instance.service_name, change.index)
            for subscriber in self._subscribers:
                subscriber(change)

    def _note(self, service_name: str, index: int) -> None:
        self._by_service[service_name] = index
        self._by_service.move_to_end(service_name)
        if len(self._by_service) > self._remembered:
            _, self._floor = self._by_service.popitem(last=False)
