"""Choosing among the instances of a service: which fit, in which order, how many."""

import random
from collections.abc import Iterable
from itertools import accumulate

from msgspec import Struct

from registryd.core.leases import Lease
from registryd.core.model import Status


class Choice(Struct, frozen=True, kw_only=True):
    """What a reader wants. Everything that is given must hold."""

    #: The effective statuses that will do; None: any.
    statuses: frozenset[Status] | None = frozenset({"up"})
    #: All of them.
    tags: tuple[str, ...] = ()
    version: str | None = None
    zone: str | None = None
    #: All of these pairs.
    metadata: tuple[tuple[str, str], ...] = ()
    #: Those in this zone first.
    near: str | None = None
    #: At most so many.
    limit: int | None = None
    #: Exactly one, by chance and weight (or none, where none fits).
    pick: bool = False

    def fits(self, lease: Lease) -> bool:
        """Whether this is one of those that are wanted."""
        instance = lease.instance
        return (
            (self.statuses is None or lease.status in self.statuses)
            and (self.version is None or instance.version == self.version)
            and (self.zone is None or instance.zone == self.zone)
            and all(tag in instance.tags for tag in self.tags)
            and all(instance.metadata.get(key) == value for key, value in self.metadata)
        )


def choose(leases: Iterable[Lease], choice: Choice, dice: random.Random) -> list[Lease]:
    """The leases that are wanted, in their order; with `near`, that zone first."""
    chosen = [lease for lease in leases if choice.fits(lease)]
    if choice.near is not None:
        near = [lease for lease in chosen if lease.instance.zone == choice.near]
        if choice.pick and near:
            chosen = near
        else:
            chosen = near + [lease for lease in chosen if lease.instance.zone != choice.near]
    if choice.pick:
        return pick(chosen, dice)
    return chosen[: choice.limit]


def pick(leases: list[Lease], dice: random.Random) -> list[Lease]:
    """One lease, each with a chance in proportion to its weight: weight 0 only where there is no other."""
    if not leases:
        return []
    sums = list(accumulate(lease.instance.weight for lease in leases))
    if sums[-1] == 0:
        return [dice.choice(leases)]
    return dice.choices(leases, cum_weights=sums)
