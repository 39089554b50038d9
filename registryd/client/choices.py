"""Choosing one of the instances of a service. What can be reckoned when the list changes is reckoned then, so that to
choose takes well under a microsecond, however many there are. Knows no clock and no thread.
"""

import random
from bisect import bisect, bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate, chain, cycle
from typing import Any, Literal
from zlib import crc32

#: How to choose where no key is given: each in turn; by chance, in proportion to the weights; the one at which least is
#: under way.
Policy = Literal["round_robin", "weighted_random", "least_pending"]
POLICIES: tuple[Policy, ...] = ("round_robin", "weighted_random", "least_pending")

#: Places of an instance on the ring: with so many, the shares of a hundred instances differ by some 10 %.
PLACES = 128
_DIGEST = 64


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, as the registry shows it."""

    instance_id: str
    service_name: str
    base_url: str
    status: str = "up"
    ttl: float = 30.0
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    version: str = ""
    zone: str = ""
    weight: int = 1
    generation: int = 1
    registered_at: str = ""
    #: Whether it is listed although it is not heard any more.
    suspect: bool = False

    def __hash__(self) -> int:
        return hash(self.instance_id)

    @classmethod
    def of(cls, data: Any) -> "Instance":
        """An instance from its JSON; what else is in there is passed over. Raises ValueError for what is none."""
        known = {name: data[name] for name in _KINDS if name in data} if isinstance(data, dict) else {}
        if missing := next((name for name in ("instance_id", "service_name", "base_url") if name not in known), None):
            raise ValueError(f"an instance has no {missing}")
        if wrong := next((name for name, value in known.items() if not isinstance(value, _KINDS[name])), None):
            raise ValueError(f"the {wrong} of an instance is {known[wrong]!r:.64}")
        return cls(**known | {"tags": tuple(known.get("tags", ()))})


_KINDS: dict[str, type | tuple[type, ...]] = {
    "instance_id": str, "service_name": str, "base_url": str, "status": str, "ttl": (int, float), "metadata": dict,
    "tags": list, "version": str, "zone": str, "weight": int, "generation": int, "registered_at": str, "suspect": bool,
}  # fmt: skip


def candidates(instances: Iterable[Instance], failing: Collection[str], zone: str) -> tuple[Instance, ...]:
    """Those among whom to choose: without those that are failing (by id), are suspect, are of another zone, or have a
    weight of 0, each as long as that leaves someone."""
    left = tuple(instances)
    left = tuple(one for one in left if one.instance_id not in failing) or left
    left = tuple(one for one in left if not one.suspect) or left
    if zone:
        left = tuple(one for one in left if one.zone == zone) or left
    return tuple(one for one in left if one.weight > 0) or left


def in_turn(among: Sequence[Instance], dice: random.Random) -> Callable[[], Instance]:
    """Gives one after the other; begins anywhere, so that not everyone who has heard of a change begins with the same.
    Any thread may call it."""
    start = dice.randrange(len(among))
    return cycle(chain(among[start:], among[:start])).__next__


def by_weight(among: Sequence[Instance], dice: random.Random) -> Callable[[], Instance]:
    """Gives any, in proportion to the weights; evenly where all are 0. Any thread may call it."""
    sums = list(accumulate(one.weight for one in among))
    total, last, chance = sums[-1], len(among) - 1, dice.random
    if not total:
        return lambda: dice.choice(among)
    return lambda: among[bisect(sums, chance() * total, 0, last)]


class Ring:
    """Consistent hashing: each instance has many places on a ring, and a key goes to the next one. When an instance
    comes or goes, only keys that come to it or were with it move. The same everywhere, as it hangs on the instance_ids
    alone."""

    def __init__(self) -> None:
        self._places: list[tuple[int, str]] = []
        #: The points in order and whose each is: one value, so that any thread may look up.
        self._table: tuple[list[int], list[Instance]] = ([], [])
        self._among: dict[str, Instance] = {}

    def change(self, among: Iterable[Instance]) -> None:
        """Has it made of these. Costs little where few have come or gone."""
        before, self._among = self._among, {one.instance_id: one for one in among}
        if before.keys() - self._among.keys():
            self._places = [place for place in self._places if place[1] in self._among]
        for instance_id in self._among.keys() - before.keys():
            self._places += ((point, instance_id) for point in _points(instance_id))
        self._places.sort()
        self._table = [point for point, _ in self._places], [self._among[name] for _, name in self._places]

    def find(self, key: str) -> Instance:
        """The instance of a key; of none, raises IndexError."""
        points, owners = self._table
        # Where a key lies must be the same everywhere, and spread: for that a CRC is enough, and ten times as fast.
        at = bisect_right(points, crc32(key.encode()) << 32)
        return owners[at if at < len(owners) else 0]


def _points(instance_id: str) -> Iterable[int]:
    for n in range(PLACES * 8 // _DIGEST):
        digest = blake2b(f"{instance_id} {n}".encode(), digest_size=_DIGEST).digest()
        for at in range(0, _DIGEST, 8):
            yield int.from_bytes(digest[at : at + 8], "big")


class Pending:
    """How much is under way at each instance, so that the one with the least is found at once. Of several with the
    least each has its turn."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        #: Those among whom to choose, by how much is under way there.
        self._levels: defaultdict[int, OrderedDict[str, Instance]] = defaultdict(OrderedDict)
        self._lowest = 0

    def change(self, among: Iterable[Instance]) -> None:
        """Has it choose among these."""
        self._levels.clear()
        for one in among:
            self._levels[self._counts.get(one.instance_id, 0)][one.instance_id] = one
        self._lowest = min(self._levels, default=0)

    def count(self, instance: Instance) -> int:
        """How much is under way there."""
        return self._counts.get(instance.instance_id, 0)

    def least(self) -> Instance:
        """The one with the least; of none, raises StopIteration."""
        level = self._levels[self._lowest]
        instance_id = next(iter(level))
        level.move_to_end(instance_id)
        return level[instance_id]

    def begin(self, instance: Instance) -> None:
        """Something more is under way there."""
        self._move(instance.instance_id, 1)

    def end(self, instance: Instance) -> None:
        """Something that was under way there is over."""
        self._move(instance.instance_id, -1)

    def _move(self, instance_id: str, by: int) -> None:
        before = self._counts.get(instance_id, 0)
        after = before + by
        if after:
            self._counts[instance_id] = after
        else:
            self._counts.pop(instance_id, None)
        one = self._levels[before].pop(instance_id, None)
        if one is None:  # it is not among them (any more)
            return
        self._levels[after][instance_id] = one
        if after < self._lowest or not self._levels[self._lowest]:
            self._lowest = after
