"""Choosing among instances: no clock, no thread."""

import random
from collections import Counter

import pytest

from registryd.client.choices import Instance, Pending, Ring, by_weight, candidates, in_turn


def an(instance_id: str, **more: object) -> Instance:
    return Instance.of(
        {"instance_id": instance_id, "service_name": "users", "base_url": f"http://{instance_id}:1"} | more
    )


def some(count: int) -> list[Instance]:
    return [an(f"users-{n}") for n in range(count)]


def names(*instances: Instance) -> list[str]:
    return [one.instance_id for one in instances]


def test_an_instance_is_what_the_registry_shows() -> None:
    shown = {
        "instance_id": "u1", "service_name": "users", "base_url": "http://h:1", "registered_at": "2024-01-15T10:30:00Z",
        "last_heartbeat": "2024-01-15T10:30:00Z", "status": "draining", "ttl": 15.5, "metadata": {"a": "b"},
        "tags": ["x"], "version": "1", "zone": "z", "weight": 3, "generation": 2, "suspect": True, "news": [],
    }  # fmt: skip
    one = Instance.of(shown)

    assert (one.instance_id, one.service_name, one.base_url, one.status) == ("u1", "users", "http://h:1", "draining")
    assert (one.ttl, one.metadata, one.tags, one.version, one.zone) == (15.5, {"a": "b"}, ("x",), "1", "z")
    assert (one.weight, one.generation, one.suspect) == (3, 2, True)
    assert {one, Instance.of(shown)} == {one}


@pytest.mark.parametrize("data", [None, [], {}, {"instance_id": "u"}, {"instance_id": 7}])
def test_what_is_no_instance_is_a_value_error(data: object) -> None:
    with pytest.raises(ValueError, match="an instance has no"):
        Instance.of(data)
    with pytest.raises(ValueError, match="the weight of an instance is '1'"):
        an("u", weight="1")


def test_those_that_are_worse_are_passed_over_as_long_as_there_are_others() -> None:
    a, b, c, d = an("a", zone="x"), an("b", zone="y"), an("c", suspect=True), an("d", weight=0)

    assert candidates([a, b, c, d], (), "") == (a, b)
    assert candidates([a, b, c, d], {"a"}, "") == (b,)
    assert candidates([a, b, c, d], (), "y") == (b,)
    assert candidates([a, b, c, d], (), "none") == (a, b)
    assert candidates([a, b, c, d], {"b"}, "y") == (a,), "the other zone where all of this one are failing"
    assert candidates([c, d], {"d"}, "") == (c,)
    assert candidates([c], {"c"}, "z") == (c,)
    assert candidates([d], (), "") == (d,)
    assert candidates([], (), "") == ()


def test_in_turn_each_is_given_as_often_and_not_everyone_begins_with_the_same() -> None:
    among = some(3)
    firsts = set()
    for seed in range(20):
        give = in_turn(among, random.Random(seed))
        given = names(*(give() for _ in range(9)))
        assert given[:3] * 3 == given
        assert Counter(given) == dict.fromkeys(names(*among), 3)
        firsts.add(given[0])
    assert firsts == set(names(*among))


def test_by_weight_each_is_given_in_proportion() -> None:
    give = by_weight([an("a", weight=1), an("b", weight=3)], random.Random(7))
    given = Counter(names(*(give() for _ in range(4000))))
    assert 2800 <= given["b"] <= 3200

    give = by_weight([an("a", weight=0), an("b", weight=0)], random.Random(7))
    assert set(names(*(give() for _ in range(100)))) == {"a", "b"}


def test_on_the_ring_only_the_keys_of_who_comes_or_goes_move() -> None:
    among, ring = some(20), Ring()
    ring.change(among)
    keys = [f"key-{n}" for n in range(5000)]
    before = {key: ring.find(key).instance_id for key in keys}
    shares = Counter(before.values())
    assert len(shares) == 20
    assert max(shares.values()) < 2 * min(shares.values())

    ring.change(among[1:])
    after = {key: ring.find(key).instance_id for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {key for key in keys if before[key] == "users-0"}

    new = an("new")
    ring.change([*among, new])
    assert {before[key] for key in keys if ring.find(key) is not new} == set(before.values())
    assert all(ring.find(key).instance_id in (before[key], "new") for key in keys)


def test_the_ring_is_the_same_everywhere_and_gives_the_latest_of_an_instance() -> None:
    one, other = Ring(), Ring()
    one.change(some(5))
    one.change(some(10))
    other.change(reversed([an(f"users-{n}", version="2") for n in range(10)]))
    keys = [f"key-{n}" for n in range(200)]
    assert [one.find(key).instance_id for key in keys] == [other.find(key).instance_id for key in keys]

    one.change([an(f"users-{n}", version="3") for n in range(10)])
    assert {one.find(key).version for key in keys} == {"3"}
    one.change(())
    with pytest.raises(IndexError):
        one.find("a")


def test_the_one_with_the_least_under_way_is_given_and_those_with_the_same_in_turn() -> None:
    a, b, c = among = [an("a"), an("b"), an("c")]
    pending = Pending()
    pending.change(among)
    assert names(*(pending.least() for _ in range(6))) == ["a", "b", "c"] * 2

    pending.begin(a)
    pending.begin(b)
    assert names(pending.least(), pending.least()) == ["c", "c"]
    pending.begin(c)
    pending.begin(c)
    pending.end(b)
    assert pending.least() is b
    pending.begin(b)
    pending.begin(b)
    assert pending.least() is a
    assert [pending.count(one) for one in among] == [1, 2, 2]


def test_what_is_under_way_counts_on_over_changes_of_the_list() -> None:
    a, b = an("a"), an("b")
    pending = Pending()
    pending.change([a, b])
    pending.begin(a)
    pending.change([b])
    assert pending.least() is b
    pending.begin(b)
    pending.end(b)

    pending.change([a, b])
    assert pending.least() is b
    pending.change(())
    pending.end(a)
    pending.change([a, b])
    assert pending.least() is a
    with pytest.raises(StopIteration):
        Pending().least()


def test_the_least_is_right_whatever_happens() -> None:
    dice, among, pending = random.Random(7), some(7), Pending()
    pending.change(among)
    counts = Counter(dict.fromkeys(names(*among), 0))
    here = among
    for _ in range(2000):
        one = dice.choice(among)
        if dice.random() < 0.45 and counts[one.instance_id]:
            pending.end(one)
            counts[one.instance_id] -= 1
        elif dice.random() < 0.9:
            pending.begin(one)
            counts[one.instance_id] += 1
        else:
            here = dice.sample(among, dice.randrange(1, 8))
            pending.change(here)
        assert counts[pending.least().instance_id] == min(counts[one.instance_id] for one in here)
