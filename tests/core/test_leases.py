"""Leases: exact ends, in order, whatever mix of lengths there is."""

import math
import random

from support import NOW, WALL, a_registration, new_state

from registryd.core.leases import Lease, Leases, Listing
from registryd.core.model import Instance


def an_instance(instance_id: str, ttl: float) -> Instance:
    change = new_state().decide(a_registration(instance_id=instance_id, ttl=ttl), NOW, WALL)[0]
    return change.instance


def ids(leases: list[Lease]) -> list[str]:
    return [lease.instance.instance_id for lease in leases]


def test_a_lease_has_not_ended_before_its_end_and_has_at_it() -> None:
    leases = Leases()
    leases.grant(an_instance("i1", 30), Listing(), now=1000, wall=WALL)

    assert ids(leases.ended(math.nextafter(1030, 0))) == []
    assert ids(leases.ended(1030)) == ["i1"]
    leases.check()


def test_asking_what_has_ended_drops_nothing() -> None:
    leases = Leases()
    leases.grant(an_instance("i1", 30), Listing(), now=1000, wall=WALL)

    assert ids(leases.ended(2000)) == ["i1"]
    assert ids(leases.ended(2000)) == ["i1"]
    assert len(leases) == 1
    leases.check()


def test_a_renewal_counts_from_its_own_moment() -> None:
    leases = Leases()
    lease = leases.grant(an_instance("i1", 30), Listing(), now=1000, wall=WALL)

    leases.renew(lease, now=1029, wall=WALL + 29)

    assert (lease.last_heartbeat, lease.expires_at) == (WALL + 29, 1059)
    assert ids(leases.ended(1058.9)) == []
    assert ids(leases.ended(1059)) == ["i1"]
    leases.check()


def test_those_that_ended_first_come_first_across_lengths() -> None:
    leases = Leases()
    leases.grant(an_instance("slow", 60), Listing(), now=1000, wall=WALL)
    leases.grant(an_instance("quick", 5), Listing(), now=1000, wall=WALL)
    leases.grant(an_instance("middle", 30), Listing(), now=1000, wall=WALL)

    assert ids(leases.ended(1100)) == ["quick", "middle", "slow"]
    assert ids(leases.ended(1030)) == ["quick", "middle"]


def test_the_next_end_is_never_later_than_the_first_to_end() -> None:
    leases = Leases()
    assert leases.next_end(0) == math.inf

    lease = leases.grant(an_instance("i1", 30), Listing(), now=1000, wall=WALL)
    assert leases.next_end(1000) == 1030

    leases.renew(lease, now=1020, wall=WALL)
    assert leases.next_end(1020) <= 1050
    assert leases.next_end(1030) == 1050, "a bound that has passed is put right"
    assert ids(leases.ended(1049)) == []

    leases.drop("i1")
    assert leases.next_end(1050) == math.inf


def test_a_part_of_what_has_ended_costs_no_more_than_that_however_many_lengths_there_are() -> None:
    leases, dice = Leases(), random.Random(7)
    for n in range(300):
        leases.grant(an_instance(f"i{n}", dice.choice([5, 5 + n / 1000])), Listing(), now=1000 + n / 100, wall=WALL)
    for n in range(0, 300, 3):
        lease = leases.get(f"i{n}")
        assert lease is not None
        leases.renew(lease, 1004, WALL)
    there = sorted((lease.expires_at, lease.instance.instance_id) for lease in leases)
    seen: list[tuple[float, str]] = []
    while part := leases.ended(1100, 7):
        assert len(part) <= 7
        for lease in part:
            seen.append((lease.expires_at, lease.instance.instance_id))
            leases.drop(lease.instance.instance_id)
        assert len(leases._bounds) <= 1000
        leases.check()
    assert sorted(seen) == there
    assert [end for end, _ in seen] == [end for end, _ in there]


def test_an_id_granted_anew_has_one_lease_of_the_new_length() -> None:
    leases = Leases()
    leases.grant(an_instance("i1", 30), Listing(), now=1000, wall=WALL)
    leases.grant(an_instance("i1", 5), Listing(), now=1000, wall=WALL)

    assert len(leases) == 1
    assert ids(leases.ended(1005)) == ["i1"]
    leases.check()


def test_lengths_that_are_used_once_leave_nothing_behind() -> None:
    leases = Leases()
    for n in range(1000):
        leases.grant(an_instance("i1", 1000 + n / 8), Listing(), now=1000, wall=WALL)
        leases.drop("i1")

    assert len(leases._bounds) < 40
    assert leases._queues == {}
    leases.check()


def test_dropping_an_unknown_lease_gives_none() -> None:
    assert Leases().drop("nobody") is None


def test_a_lease_is_shown_without_its_neighbours() -> None:
    leases = Leases()
    leases.grant(an_instance("i0", 30), Listing(), now=1000, wall=WALL)
    lease = leases.grant(an_instance("i1", 30), Listing(), now=1000, wall=WALL)

    assert repr(lease).startswith("Lease(Instance(instance_id='i1', ")
    assert "i0" not in repr(lease)
