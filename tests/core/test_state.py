"""The state: what each command changes, what is refused, and what commit leaves out."""

from typing import Any

import msgspec
import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.core.errors import LimitReached, StaleGeneration, UnknownInstance
from registryd.core.limits import Limits
from registryd.core.model import (
    Change,
    Command,
    Deregister,
    Override,
    OverrideStatus,
    Register,
    Report,
    Resume,
    SetOverride,
    Update,
)
from registryd.core.services import ServiceCount
from registryd.core.state import State


def do(state: State, command: Command, now: float = NOW) -> tuple[Change, ...]:
    return state.commit(state.decide(command, NOW, WALL), now, WALL)


def up(state: State, service_name: str = "users") -> list[str]:
    return [lease.instance.instance_id for lease in state.leases(service_name) if lease.status == "up"]


def test_register_lists_the_instance_with_all_its_fields(state: State) -> None:
    (change,) = do(
        state,
        Register(
            service_name="users",
            base_url="http://10.0.0.5:8000",
            instance_id="i1",
            ttl=5.0,
            status="up",
            metadata={"team": "core"},
            tags=("blue",),
            version="1.2",
            zone="eu-1",
            weight=7,
        ),
    )

    instance = state.lease("i1").instance
    assert change.kind == "registered"
    assert change.instance == instance
    assert (instance.service_name, instance.base_url, instance.ttl, instance.status) == (
        "users", "http://10.0.0.5:8000", 5.0, "up",
    )  # fmt: skip
    assert (instance.metadata, instance.tags, instance.version, instance.zone, instance.weight) == (
        {"team": "core"}, ("blue",), "1.2", "eu-1", 7,
    )  # fmt: skip
    assert (instance.registered_at, instance.generation) == (WALL, 1)
    assert up(state) == ["i1"]


def test_what_is_not_given_has_the_contracts_defaults(state: State) -> None:
    do(state, a_registration())

    instance = state.lease("i1").instance
    assert (instance.ttl, instance.status, instance.metadata, instance.tags) == (30.0, "up", {}, ())
    assert (instance.version, instance.zone, instance.weight) == ("", "", 1)


def test_weight_zero_is_kept(state: State) -> None:
    do(state, a_registration(weight=0))

    assert state.lease("i1").instance.weight == 0


def test_deciding_changes_nothing(state: State) -> None:
    state.decide(a_registration(), NOW, WALL)

    assert len(state) == 0
    assert state.services() == {}


def test_the_lease_begins_when_the_change_comes_true(state: State) -> None:
    changes = state.decide(a_registration(), NOW, WALL)
    state.commit(changes, NOW + 5, WALL + 5)

    assert state.lease("i1").expires_at == NOW + 35
    assert state.lease("i1").last_heartbeat == WALL + 5


def test_a_known_id_is_taken_over_in_place(state: State) -> None:
    do(state, a_registration())
    do(state, a_registration(instance_id="i2"))

    (change,) = do(state, a_registration(weight=9))

    assert change.kind == "registered"
    assert change.instance.generation == 2
    assert state.lease("i1").instance.weight == 9
    assert up(state) == ["i1", "i2"], "its place in the list stays"


def test_a_takeover_may_move_to_another_service(state: State) -> None:
    do(state, a_registration())

    changes = do(state, a_registration(service_name="timelines"))

    assert [(change.kind, change.instance.service_name) for change in changes] == [
        ("deregistered", "users"),
        ("registered", "timelines"),
    ]
    assert state.services() == {"timelines": ServiceCount(1, 1)}
    assert state.lease("i1").instance.generation == 2


def test_deregister_takes_the_instance_and_its_empty_service_away(state: State) -> None:
    do(state, a_registration())

    (change,) = do(state, Deregister("i1"))

    assert change.kind == "deregistered"
    assert change.instance.instance_id == "i1"
    assert state.services() == {}
    with pytest.raises(UnknownInstance):
        state.lease("i1")


@pytest.mark.parametrize("command", [Deregister("i1"), Update("i1", Report(status="down"))])
def test_an_unknown_instance_is_refused(state: State, command: Command) -> None:
    with pytest.raises(UnknownInstance, match="i1"):
        state.decide(command, NOW, WALL)


@pytest.mark.parametrize("asked", [1, 3])
def test_another_generation_is_refused_and_changes_nothing(state: State, asked: int) -> None:
    do(state, a_registration())
    do(state, a_registration())

    for command in (Deregister("i1", asked), Update("i1", Report(status="down"), asked)):
        with pytest.raises(StaleGeneration, match=f"generation 2, not {asked}"):
            state.decide(command, NOW, WALL)
    assert state.lease("i1", 2).instance.status == "up"


def test_a_report_changes_what_it_names_and_nothing_else(state: State) -> None:
    do(state, a_registration(weight=5, metadata={"a": "1"}, tags=("blue",)))

    (change,) = do(state, Update("i1", Report(status="starting", metadata={"b": "2"})))

    instance = state.lease("i1").instance
    assert change.kind == "updated"
    assert change.instance == instance
    assert (instance.status, instance.metadata, instance.weight, instance.tags) == (
        "starting",
        {"b": "2"},
        5,
        ("blue",),
    )
    assert state.services() == {"users": ServiceCount(1, 0)}
    assert up(state) == []


def test_a_report_of_what_is_known_changes_nothing(state: State) -> None:
    do(state, a_registration(weight=5))

    assert state.decide(Update("i1", Report(status="up", weight=5, metadata={})), NOW, WALL) == ()


def test_a_lease_that_ends_is_a_change_that_says_why(state: State) -> None:
    do(state, a_registration(ttl=2.5))

    assert state.ended(NOW + 2.4, WALL) == ()
    (change,) = state.commit(state.ended(NOW + 2.5, WALL), NOW + 2.5, WALL + 2)

    assert (change.kind, change.reason) == ("expired", "no heartbeat for 2.5 s")
    assert len(state) == 0


@pytest.mark.parametrize("command", [Deregister("i1"), Update("i1", Report(status="down"))])
def test_commit_leaves_out_what_ended_since_the_decision(state: State, command: Command) -> None:
    do(state, a_registration())
    changes = state.decide(command, NOW, WALL)
    state.commit(state.ended(NOW + 30, WALL), NOW + 30, WALL)

    assert state.commit(changes, NOW + 30, WALL) == ()


def test_a_report_does_not_revive_a_lease_that_nobody_has_swept_yet(state: State) -> None:
    do(state, a_registration())
    changes = state.decide(Update("i1", Report(status="down")), NOW, WALL)

    assert state.commit(changes, NOW + 30, WALL) == ()


def test_a_move_takes_a_lease_that_ended_meanwhile_out_of_its_old_service_for_all_to_see(state: State) -> None:
    do(state, a_registration("users"))
    changes = state.decide(a_registration("timelines"), NOW, WALL)
    done = state.commit(changes, NOW + 31, WALL)

    assert [(change.kind, change.instance.service_name) for change in done] == [
        ("deregistered", "users"),
        ("registered", "timelines"),
    ]


def test_a_takeover_decided_before_the_end_comes_true_after_it(state: State) -> None:
    do(state, a_registration())
    changes = state.decide(a_registration(weight=3), NOW, WALL)
    state.commit(state.ended(NOW + 30, WALL), NOW + 30, WALL)

    (change,) = state.commit(changes, NOW + 31, WALL)

    assert change.instance.generation == 2
    assert up(state) == ["i1"]


def test_services_are_sorted_and_counted(state: State) -> None:
    for service_name, instance_id, status in [("b", "1", "up"), ("a", "2", "up"), ("b", "3", "down")]:
        do(state, a_registration(service_name, instance_id, status=status))

    assert list(state.services().items()) == [("a", ServiceCount(1, 1)), ("b", ServiceCount(2, 1))]
    assert state.service_count() == 2


def test_a_full_registry_refuses_new_instances_and_takes_known_ones() -> None:
    state = new_state(Limits(instances=1))
    do(state, a_registration())

    with pytest.raises(LimitReached, match=r"1 instances \(--max-instances\)"):
        state.decide(a_registration(instance_id="i2"), NOW, WALL)
    do(state, a_registration(service_name="timelines"))
    state.check()


def test_a_full_service_refuses_new_instances_and_takes_known_ones() -> None:
    state = new_state(Limits(instances_per_service=1))
    do(state, a_registration())
    do(state, a_registration("timelines", "i2"))

    for command in (a_registration(instance_id="i3"), a_registration("users", "i2")):
        with pytest.raises(LimitReached, match=r"'users' is full.*--max-instances-per-service"):
            state.decide(command, NOW, WALL)
    do(state, a_registration())
    state.check()


def test_a_registry_that_is_full_of_metadata_takes_no_more_of_it() -> None:
    state = new_state(Limits(metadata_bytes=1000))
    much: dict[str, Any] = {"metadata": {"k": "v" * 500}, "tags": ("t" * 50,)}
    do(state, a_registration(**much))
    do(state, a_registration(instance_id="none"))

    why = r"take 1000 bytes \(--max-metadata-bytes\); send less"
    with pytest.raises(LimitReached, match=why):
        state.decide(a_registration(instance_id="i2", **much), NOW, WALL)
    with pytest.raises(LimitReached, match=why):
        state.decide(Update("none", Report(metadata=much["metadata"])), NOW, WALL)
    with pytest.raises(LimitReached, match=why):
        state.decide(msgspec.structs.replace(a_registration(), base_url="http://" + "h" * 2000), NOW, WALL)
    do(state, a_registration(**much))  # in place of itself
    do(state, Update("i1", Report(metadata={})))
    do(state, a_registration(instance_id="i2", **much))
    do(state, Deregister("i2"))
    do(state, a_registration(instance_id="i3", **much))
    state.check()


def lay(state: State, status: OverrideStatus = "draining", seconds: float | None = None, now: float = NOW) -> Change:
    (change,) = do(state, SetOverride("i1", status, "deploy", seconds), now)
    return change


def test_an_override_wins_over_what_the_instance_says(state: State) -> None:
    do(state, a_registration())
    change = lay(state)

    lease = state.lease("i1")
    assert (change.kind, change.status, change.reason) == ("updated", "draining", "draining: deploy")
    assert lease.override == Override("draining", "deploy", WALL)
    assert (lease.status, lease.instance.status) == ("draining", "up")
    assert up(state) == []
    assert state.services() == {"users": ServiceCount(1, 0)}


def test_neither_heartbeat_nor_report_nor_takeover_undoes_an_override(state: State) -> None:
    do(state, a_registration())
    lay(state)

    state.renew(state.lease("i1"), NOW + 5, WALL + 5)
    assert state.lease("i1").status == "draining"
    do(state, Update("i1", Report(status="down")))
    do(state, Update("i1", Report(status="up", weight=4)))
    assert state.lease("i1").status == "draining"
    (change,) = do(state, a_registration())
    assert (change.status, state.lease("i1").status) == ("draining", "draining")


@pytest.mark.parametrize("way", ["deregister", "expire"])
def test_an_override_outlives_the_registration(state: State, way: str) -> None:
    do(state, a_registration())
    lay(state)
    if way == "deregister":
        do(state, Deregister("i1"))
    else:
        state.commit(state.ended(NOW + 30, WALL), NOW + 30, WALL)
    do(state, a_registration(), NOW + 60)

    assert state.lease("i1").status == "draining"
    assert up(state) == []


def test_resume_takes_the_override_off(state: State) -> None:
    do(state, a_registration())
    lay(state, "maintenance")
    (change,) = do(state, Resume("i1"))

    assert (change.kind, change.status, change.override) == ("updated", "up", None)
    assert up(state) == ["i1"]
    assert state.decide(Resume("i1"), NOW, WALL) == (), "there is nothing more to take off"


def test_an_override_replaces_the_one_before(state: State) -> None:
    do(state, a_registration())
    lay(state, "draining", seconds=10)
    lay(state, "maintenance", seconds=60)

    assert state.ended(NOW + 10, WALL) == ()
    assert state.lease("i1").status == "maintenance"


def test_an_override_ends_at_its_moment_and_not_before(state: State) -> None:
    do(state, a_registration(ttl=3600.0))
    lay(state, seconds=10.5)
    override = state.lease("i1").override
    assert override is not None
    assert (override.until, override.ends_at) == (WALL + 11, NOW + 10.5)

    assert state.next_end(NOW) == NOW + 10.5
    assert state.ended(NOW + 10.4, WALL) == ()
    assert state.ended(NOW + 10.5, WALL) == state.ended(NOW + 10.5, WALL)
    (change,) = state.commit(state.ended(NOW + 10.5, WALL), NOW + 10.5, WALL)
    assert (change.kind, change.status, change.reason) == ("updated", "up", "draining is over: its time is up")
    assert up(state) == ["i1"]
    assert state.ended(NOW + 99, WALL) == ()


def test_an_override_that_ended_while_the_instance_was_away_is_over(state: State) -> None:
    do(state, a_registration())
    lay(state, seconds=10)
    do(state, Deregister("i1"))
    assert state.ended(NOW + 20, WALL) == ()
    do(state, a_registration(), NOW + 20)

    assert state.lease("i1").status == "up"


def test_an_override_that_ends_while_the_store_works_is_left_out(state: State) -> None:
    do(state, a_registration(ttl=3600.0))
    lay(state, seconds=10)
    changes = state.decide(Update("i1", Report(weight=7)), NOW + 9, WALL)
    state.commit(state.ended(NOW + 10, WALL), NOW + 10, WALL)
    (change,) = state.commit(changes, NOW + 11, WALL)

    assert (change.status, change.override, state.lease("i1").status) == ("up", None, "up")


def test_ends_of_overrides_long_replaced_do_not_pile_up(state: State) -> None:
    do(state, a_registration(ttl=86400.0))
    for n in range(5000):
        lay(state, seconds=1000 + n)

    assert len(state._override_ends) < 2000
    state.check()


@pytest.mark.parametrize("command", [SetOverride("i1", "draining"), Resume("i1")])
def test_an_unknown_instance_cannot_be_overridden(state: State, command: Command) -> None:
    with pytest.raises(UnknownInstance):
        state.decide(command, NOW, WALL)


@pytest.mark.parametrize("way", ["deregister", "expire"])
def test_the_next_life_of_an_id_is_the_next_generation(state: State, way: str) -> None:
    do(state, a_registration())
    if way == "deregister":
        do(state, Deregister("i1"))
    else:
        state.commit(state.ended(NOW + 30, WALL), NOW + 30, WALL)
    (change,) = do(state, a_registration(), NOW + 60)

    assert (change.instance.generation, change.reason) == (2, "new")
    with pytest.raises(StaleGeneration):
        state.lease("i1", 1)
