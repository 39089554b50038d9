"""The local copy of a service, event by event: no socket, no task, and a clock that the test moves."""

import json
import math
import random
from typing import Any, cast

import pytest
from conftest import ExpectLog
from support import ManualClock

from registryd.client.choices import Policy
from registryd.client.discovery import FAILING, LONGEST_RETRY, PATIENCE, LocalCopy
from registryd.client.errors import NoInstances, NotARegistry, RegistryUnreachable, TokenRefused

URL = "http://localhost:8006"


def instance(instance_id: str, **more: object) -> dict[str, Any]:
    return {
        "instance_id": instance_id, "service_name": "users", "base_url": f"http://{instance_id}:1", "status": "up",
        "ttl": 30.0, "registered_at": "2024-01-15T10:30:00Z", "generation": 1,
    } | more  # fmt: skip


class Watched:
    """A copy, and the stream that it is fed by."""

    def __init__(self, clock: ManualClock, policy: Policy = "round_robin", zone: str = "") -> None:
        self.clock = clock
        self.copy = LocalCopy("users", policy, zone, clock.now, random.Random(7))

    def open(self, index: int | None = 100, url: str = URL) -> None:
        self.copy.opened(url, self.clock.now(), index)

    def send(self, data: bytes) -> None:
        self.copy.feed(data, self.clock.now())

    def event(self, kind: str, index: int, data: object) -> None:
        self.send(f"event: {kind}\nid: {index}\ndata: {json.dumps(data)}\n\n".encode())

    def snapshot(self, *instances: dict[str, Any], index: int = 100) -> None:
        self.event("snapshot", index, {"instances": instances, "count": len(instances)})

    def comment(self) -> None:
        self.send(b": still here\n\n")

    @property
    def names(self) -> list[str]:
        return [one.instance_id for one in self.copy.instances]

    def picked(self, count: int = 12) -> set[str]:
        return {self.copy.pick().instance_id for _ in range(count)}


@pytest.fixture
def watched(clock: ManualClock) -> Watched:
    watched = Watched(clock)
    watched.open()
    watched.snapshot(instance("a"), instance("b"), instance("c"))
    return watched


def test_it_is_what_the_snapshot_and_the_events_tell(watched: Watched) -> None:
    assert watched.names == ["a", "b", "c"]
    watched.event("registered", 101, instance("d"))
    watched.event("deregistered", 102, instance("a"))
    watched.event("expired", 103, instance("b"))
    watched.event("updated", 104, instance("c", weight=7))
    assert watched.names == ["c", "d"]
    assert watched.copy.instances[0].weight == 7
    assert watched.copy.resume_from(URL) == 104


@pytest.mark.parametrize("status", ["down", "starting", "draining", "maintenance"])
def test_one_that_is_not_up_is_not_picked_until_it_is(watched: Watched, status: str) -> None:
    watched.event("updated", 101, instance("b", status=status))
    assert watched.picked() == {"a", "c"}
    watched.event("updated", 102, instance("b"))
    assert watched.picked() == {"a", "b", "c"}


def test_what_is_of_another_service_or_of_a_later_registry_is_passed_over(watched: Watched) -> None:
    watched.event("registered", 101, instance("t", service_name="timelines"))
    watched.event("renamed", 102, {"what": "ever"})
    assert watched.names == ["a", "b", "c"]
    assert watched.copy.resume_from(URL) == 102


# Its age.


def test_its_age_is_infinite_until_a_registry_has_told_and_then_grows_from_the_moment_it_was_asked(
    clock: ManualClock,
) -> None:
    watched = Watched(clock)
    assert (watched.copy.age, watched.copy.is_known) == (math.inf, False)
    watched.open()
    clock.advance(2)
    watched.snapshot()
    assert (watched.copy.age, watched.copy.is_known) == (2, True)
    clock.advance(5)
    assert watched.copy.age == 7


def test_comments_and_events_make_it_young_again(watched: Watched, clock: ManualClock) -> None:
    clock.advance(15)
    watched.comment()
    assert watched.copy.age == 0
    clock.advance(4)
    watched.event("registered", 101, instance("d"))
    assert watched.copy.age == 0


def test_what_may_have_come_long_ago_makes_it_no_younger_than_that(watched: Watched, clock: ManualClock) -> None:
    clock.advance(60)
    watched.copy.feed(b": still here\n\n", clock.now() - 50)
    assert watched.copy.age == 50
    watched.copy.feed(b": still here\n\n", clock.now() - 55)
    assert watched.copy.age == 50, "and never older than was known"


def test_an_event_that_comes_in_pieces_is_as_old_as_its_first(watched: Watched, clock: ManualClock) -> None:
    clock.advance(10)
    watched.send(b": still ")
    clock.advance(5)
    watched.send(b"here\n\n")
    assert watched.copy.age == 5
    watched.comment()
    assert watched.copy.age == 0


def test_a_stream_that_goes_on_is_current_only_when_all_that_was_missed_is_known(
    watched: Watched, clock: ManualClock
) -> None:
    watched.copy.ended()
    clock.advance(20)
    watched.open(index=110)
    watched.send(b": resumed\n\n")
    assert watched.copy.age == 20
    watched.event("registered", 105, instance("d"))
    assert watched.copy.age == 20, "there may be more up to 110"
    watched.event("registered", 110, instance("e"))
    assert watched.copy.age == 0


def test_a_stream_that_goes_on_where_nothing_was_missed_is_current_at_once(
    watched: Watched, clock: ManualClock
) -> None:
    watched.copy.ended()
    clock.advance(20)
    watched.open(index=100)
    clock.advance(1)
    watched.send(b": resumed\n\n")
    assert watched.copy.age == 1, "since it was asked for"


@pytest.mark.parametrize("index", [110, None])
def test_where_only_other_services_have_changed_the_next_comment_tells(
    watched: Watched, clock: ManualClock, index: int | None
) -> None:
    watched.copy.ended()
    clock.advance(20)
    watched.open(index=index)
    watched.send(b": resumed\n\n")
    clock.advance(15)
    assert watched.copy.age == 35
    watched.comment()
    assert watched.copy.age == 0


# The registry is away.


def test_an_outage_leaves_what_is_known_and_it_grows_old(
    watched: Watched, clock: ManualClock, expect_log: ExpectLog
) -> None:
    with expect_log("^it is gone; keeping what is known of service=users$"):
        watched.copy.ended(RegistryUnreachable("it is gone"))
    for _ in range(60):
        clock.advance(1)
        watched.copy.ended(RegistryUnreachable("it is gone"))
        assert watched.picked() == {"a", "b", "c"}
    assert watched.copy.age == 60
    assert str(watched.copy.trouble) == "it is gone"

    watched.open()
    watched.snapshot(instance("a"))
    assert (watched.copy.age, watched.copy.trouble, watched.names) == (0, None, ["a"])


def test_it_backs_off_and_leaves_a_registry_that_stays_away(watched: Watched, expect_log: ExpectLog) -> None:
    with expect_log("gone"):
        leaves = [watched.copy.ended(RegistryUnreachable("gone")) for _ in range(PATIENCE)]
    assert leaves == [False] * (PATIENCE - 1) + [True]
    for _ in range(50):
        watched.copy.ended(RegistryUnreachable("gone"))
        assert watched.copy.wait <= LONGEST_RETRY
    assert watched.copy.wait >= LONGEST_RETRY / 2

    watched.open()
    watched.comment()
    watched.comment()
    assert not watched.copy.ended()
    assert watched.copy.wait <= 0.5


def test_a_registry_that_never_told_is_left_at_once(clock: ManualClock, expect_log: ExpectLog) -> None:
    with expect_log("gone"):
        assert Watched(clock).copy.ended(RegistryUnreachable("gone"))


def test_another_registry_is_not_told_an_index_that_means_nothing_there(watched: Watched) -> None:
    assert watched.copy.resume_from(URL) == 100
    assert watched.copy.resume_from("http://b:2") is None
    watched.open(url="http://b:2")
    assert watched.copy.resume_from("http://b:2") is None
    assert watched.copy.resume_from(URL) is None


def test_a_registry_without_memory_does_not_make_it_forget_for_one_ttl(watched: Watched, clock: ManualClock) -> None:
    watched.copy.ended()
    clock.advance(60)
    watched.open(index=1000)
    watched.snapshot(index=1000)
    assert watched.names == ["a", "b", "c"]
    watched.event("registered", 1001, instance("b", registered_at="2024-01-15T10:32:00Z"))
    assert set(watched.names) == {"a", "b", "c"}
    clock.advance(29)
    watched.event("deregistered", 1002, instance("c"))
    assert set(watched.names) == {"a", "b"}

    clock.advance(1)
    assert watched.picked() == {"b"}
    assert watched.names == ["b"]


def test_while_it_is_away_again_nothing_runs_out(watched: Watched, clock: ManualClock) -> None:
    watched.copy.ended()
    watched.open(index=1000)
    watched.snapshot(index=1000)
    watched.copy.ended()
    clock.advance(100)
    assert watched.names == ["a", "b", "c"]
    watched.open(index=2000)
    assert watched.names == ["a", "b", "c"], "it has not told yet"
    watched.snapshot(index=2000)
    clock.advance(29)
    assert watched.names == ["a", "b", "c"]


def test_those_who_are_kept_run_out_when_a_stream_goes_on(watched: Watched, clock: ManualClock) -> None:
    watched.copy.ended()
    watched.open(index=1000)
    watched.snapshot(instance("d"), index=1000)
    watched.copy.ended()
    clock.advance(100)
    watched.open(index=1000)
    assert set(watched.names) == {"a", "b", "c", "d"}
    watched.send(b": resumed\n\n")
    assert watched.names == ["d"]


def test_what_a_registry_that_remembers_does_not_have_is_gone(watched: Watched, clock: ManualClock) -> None:
    watched.copy.ended()
    clock.advance(60)
    watched.open(index=1000)
    watched.snapshot(instance("b"), index=1000)
    assert watched.names == ["b"]


# Nobody to pick, and what is no registry.


def test_nobody_is_a_typed_exception_that_says_why(clock: ManualClock, expect_log: ExpectLog) -> None:
    watched = Watched(clock)
    with pytest.raises(NoInstances, match=r"^nothing is known of 'users' yet, as no registry has told$"):
        watched.copy.pick()
    with expect_log("no right"):
        watched.copy.ended(TokenRefused("no right", 403, "forbidden"))
    with pytest.raises(NoInstances, match=r"^nothing is known of 'users' yet, .*: no right$"):
        watched.copy.pick("key")
    watched.open()
    watched.snapshot(instance("a", status="down"))
    clock.advance(3)
    for key in (None, "key"):
        with pytest.raises(NoInstances, match=r"^no instance of 'users' is up; the registry was heard 3 s ago$"):
            watched.copy.pick(key)
        with pytest.raises(NoInstances), watched.copy.acquire(key):
            pass


@pytest.mark.parametrize(
    "data",
    [
        b"data: {\n\n",
        b"event: snapshot\nid: 1\ndata: {}\n\n",
        b"event: snapshot\nid: 1\ndata: []\n\n",
        b'event: snapshot\nid: 1\ndata: {"instances":[7]}\n\n',
        b'event: registered\nid: 1\ndata: {"instance_id":"a"}\n\n',
        b"data: \xff\n\n",
    ],
)
def test_what_makes_no_sense_is_said_and_changes_nothing(watched: Watched, data: bytes) -> None:
    with pytest.raises(
        NotARegistry, match=f"^what answers at {URL} sends no events of a registry: .*; set REGISTRY_URL"
    ):
        watched.send(data)
    assert watched.names == ["a", "b", "c"]


# Choosing.


def test_one_that_is_failing_is_passed_over_for_a_while(watched: Watched, clock: ManualClock) -> None:
    a, b, c = watched.copy.instances
    watched.copy.failing(a)
    assert watched.picked() == {"b", "c"}
    watched.copy.failing(b, seconds=3)
    assert watched.picked() == {"c"}
    clock.advance(3)
    assert watched.picked() == {"b", "c"}
    clock.advance(FAILING - 3)
    assert watched.picked() == {"a", "b", "c"}
    for one in (a, b, c):
        watched.copy.failing(one)
    assert watched.picked() == {"a", "b", "c"}, "where all are failing, each may be tried"
    assert watched.names == ["a", "b", "c"]


def test_a_new_registration_ends_that(watched: Watched) -> None:
    watched.copy.failing(watched.copy.instances[0])
    watched.event("updated", 101, instance("a", weight=2))
    assert watched.picked() == {"b", "c"}
    watched.event("registered", 102, instance("a", generation=2))
    assert watched.picked() == {"a", "b", "c"}


def test_a_key_has_its_instance_as_long_as_it_is_there(watched: Watched) -> None:
    keys = [f"key-{n}" for n in range(100)]
    before = {key: watched.copy.pick(key).instance_id for key in keys}
    assert set(before.values()) == {"a", "b", "c"}
    watched.copy.failing(watched.copy.instances[1])
    after = {key: watched.copy.pick(key).instance_id for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {key for key in keys if before[key] == "b"}


def test_the_zone_is_ours_as_long_as_it_has_any(clock: ManualClock) -> None:
    watched = Watched(clock, zone="eu-1")
    watched.open()
    watched.snapshot(instance("a", zone="eu-1"), instance("b", zone="us-1"), instance("c", zone="eu-1"))
    assert watched.picked() == {"a", "c"}
    assert {watched.copy.pick(f"key-{n}").instance_id for n in range(50)} == {"a", "c"}
    watched.event("updated", 101, instance("a", zone="eu-1", status="draining"))
    watched.event("expired", 102, instance("c", zone="eu-1"))
    assert watched.picked() == {"b"}


def test_by_weight(clock: ManualClock) -> None:
    watched = Watched(clock, "weighted_random")
    watched.open()
    watched.snapshot(instance("a", weight=0), instance("b", weight=9), instance("c", weight=1))
    assert watched.picked(300) == {"b", "c"}


def test_the_one_with_the_least_under_way(clock: ManualClock) -> None:
    watched = Watched(clock, "least_pending")
    watched.open()
    watched.snapshot(instance("a"), instance("b"), instance("c"))
    with watched.copy.acquire() as first, watched.copy.acquire() as second, watched.copy.acquire() as third:
        assert {first.instance_id, second.instance_id, third.instance_id} == {"a", "b", "c"}
        with watched.copy.acquire():
            watched.event("registered", 101, instance("d"))
            assert watched.picked() == {"d"}
    assert watched.picked() == {"a", "b", "c", "d"}


def test_a_block_that_fails_is_over_as_well(clock: ManualClock) -> None:
    watched = Watched(clock, "least_pending")
    watched.open()
    watched.snapshot(instance("a"), instance("b"))
    with pytest.raises(RuntimeError), watched.copy.acquire("key"):
        raise RuntimeError
    assert watched.picked() == {"a", "b"}


def test_a_policy_that_is_none_is_said_at_once(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="there is no policy 'best'; there are round_robin, weighted_random, least_p"):
        Watched(clock, cast("Policy", "best"))
