"""What is remembered of instances that are gone, so that their next life begins where the last one ended: the number
of that life, an override that an operator has laid over it, and when a reader was last given it. For an hour, and
bounded.
"""

from collections import OrderedDict

from msgspec import Struct

from registryd.core.model import Override

#: Seconds for which it is remembered, and for how many instances at most.
REMEMBERED_SECONDS = 3600.0
REMEMBERED_INSTANCES = 100_000


class Gone(Struct, gc=False):
    """An instance that is gone: its id, service and owner, when it went (lease clock), its last generation, its
    override, and when a reader was last given it (wall clock; 0: never)."""

    instance_id: str
    service_name: str
    owner: str
    at: float
    generation: int
    override: Override | None
    given_at: int


class Past:
    """The instances that are gone, by id; the longest gone in front."""

    def __init__(self) -> None:
        self._gone: OrderedDict[str, Gone] = OrderedDict()

    def __len__(self) -> int:
        return len(self._gone)

    def get(self, instance_id: str, now: float) -> Gone | None:
        """What is remembered of an instance that is gone, or None."""
        gone = self._gone.get(instance_id)
        return gone if gone is not None and now - gone.at < REMEMBERED_SECONDS else None

    def add(self, instance_id: str, gone: Gone) -> None:
        """An instance has gone."""
        self._gone.pop(instance_id, None)
        self._gone[instance_id] = gone
        while (
            len(self._gone) > REMEMBERED_INSTANCES or gone.at - next(iter(self._gone.values())).at >= REMEMBERED_SECONDS
        ):
            self._gone.popitem(last=False)

    def forget(self, instance_id: str) -> None:
        """An instance is back."""
        self._gone.pop(instance_id, None)
