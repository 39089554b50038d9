"""What one address may take up of us, and all together."""

from collections.abc import Callable

import pytest
from conftest import ExpectLog

from registryd.core.limits import Limits
from registryd.overload import NOWHERE, Crowd, Overload, Rates, Waiting, place_of


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.5", "10.0.0.5"),
        ("::ffff:10.0.0.5", "10.0.0.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_stands_for_its_network_where_one_machine_has_many(address: str, place: str) -> None:
    assert place_of(address) == place


def never(connection: str) -> bool:
    return False


def one_of(*idle: str) -> Callable[[str], bool]:
    return lambda connection: connection in idle


def test_an_older_connection_of_the_same_address_goes_for_one_too_many(expect_log: ExpectLog) -> None:
    crowd = Crowd(2)
    assert crowd.arrive("10.0.0.5", "a", never) == []
    assert crowd.arrive("10.0.0.5", "b", never) == []
    assert crowd.arrive("10.0.0.6", "elsewhere", never) == []
    with expect_log(r"10\.0\.0\.5 has 2 connections \(--max-connections-per-address\)"):
        assert crowd.arrive("10.0.0.5", "c", one_of("b", "elsewhere")) == ["b"], "the idle one"
    assert crowd.arrive("10.0.0.5", "d", never) == ["a"], "none is: the oldest"
    assert crowd.crowded_out == 2


@pytest.mark.parametrize(
    ("connections", "descriptors", "most"),
    [(50_000, 65_536, 10_000), (50_000, 4_096, 3_072), (1_000, 65_536, 750), (2, 65_536, 1), (1, 65_536, 1)],
)
def test_no_address_may_have_all_connections(connections: int, descriptors: int, most: int) -> None:
    limits = Limits(connections=connections)
    overload = Overload(limits, descriptors)
    assert overload.crowd.most == most
    overload.crowd.most = 0
    overload.take_bounds(limits)
    assert overload.crowd.most == most


def test_who_has_left_takes_no_room() -> None:
    crowd = Crowd(1)
    for n in range(3):
        assert crowd.arrive("10.0.0.5", f"{n}", never) == []
        crowd.leave("10.0.0.5", f"{n}")
    crowd.leave("10.0.0.5", "never came")
    assert crowd._by_place == {}


def test_of_many_busy_ones_the_oldest_goes(monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog) -> None:
    monkeypatch.setattr("registryd.overload.LOOK", 2)
    crowd = Crowd(5)
    for connection in "abcde":
        crowd.arrive("10.0.0.5", connection, never)
    with expect_log("has 5 connections"):
        assert crowd.arrive("10.0.0.5", "f", one_of("e")) == ["a"], "so far back nobody looks for one that is idle"
    assert crowd.arrive("10.0.0.5", "g", one_of("c")) == ["c"]
    assert [crowd.arrive("10.0.0.5", new, never) for new in "hij"] == [["b"], ["d"], ["e"]]


def test_where_fewer_may_be_here_by_now_all_that_are_too_many_go(expect_log: ExpectLog) -> None:
    crowd = Crowd(5)
    for connection in "abcde":
        crowd.arrive("10.0.0.5", connection, never)
    crowd.most = 2
    with expect_log("has 2 connections"):
        assert crowd.arrive("10.0.0.5", "f", never) == ["a", "b", "c", "d"]


def test_whoever_comes_by_a_unix_socket_has_no_address() -> None:
    crowd, rates = Crowd(1), Rates(1)
    for connection in "abc":
        assert crowd.arrive(NOWHERE, connection, never) == []
        assert rates.take(NOWHERE)


class Seconds:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_address_has_its_requests_of_a_second_at_once_and_then_as_they_come() -> None:
    clock = Seconds()
    rates = Rates(10, clock)
    assert [rates.take("10.0.0.5") for _ in range(12)] == [True] * 10 + [False] * 2
    assert rates.take("10.0.0.6"), "another has its own"
    clock.now += 0.25
    assert [rates.take("10.0.0.5") for _ in range(4)] == [True, True, False, False]
    clock.now += 3600
    assert [rates.take("10.0.0.5") for _ in range(12)] == [True] * 10 + [False] * 2


def test_a_request_can_be_given_back() -> None:
    rates = Rates(1, Seconds())
    for _ in range(3):
        assert rates.take("10.0.0.5")
        rates.give_back("10.0.0.5")
    assert rates.take("10.0.0.5")
    assert not rates.take("10.0.0.5")


def test_without_a_limit_nothing_is_counted() -> None:
    rates = Rates(0, Seconds())
    assert all(rates.take("10.0.0.5") for _ in range(100))
    rates.give_back("10.0.0.5")
    assert rates._buckets == {}


def test_addresses_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registryd.overload.MOST_PLACES", 3)
    clock = Seconds()
    rates = Rates(1, clock)
    for n in range(100):
        clock.now += 0.4
        assert rates.take(f"10.0.0.{n}")
        assert len(rates._buckets) <= 3
    clock.now += 0.1
    for n in range(100, 200):
        assert rates.take(f"10.0.0.{n}")
        assert len(rates._buckets) <= 3


def test_where_too_much_waits_those_go_who_have_kept_us_the_longest(expect_log: ExpectLog) -> None:
    gone: list[str] = []
    waiting = Waiting(100)

    def hold(who: str, size: int) -> None:
        waiting.hold(who, size, lambda: gone.append(who))

    hold("a", 40)
    hold("b", 40)
    hold("a", 10)
    hold("c", 50)
    assert (gone, waiting.bytes) == ([], 100)
    waiting.release("b")
    waiting.release("nobody")
    hold("d", 30)
    assert (gone, waiting.bytes) == ([], 90)
    with expect_log(r"more than 100 bytes wait for clients .*\(--max-waiting-bytes\)"):
        hold("c", 80)
    assert (gone, waiting.bytes) == (["a", "c"], 30)
    hold("e", 101)
    assert (gone, waiting.bytes) == (["a", "c", "d", "e"], 0)
    assert waiting.let_go == 4
