"""The front desk: nothing waits that need not, nothing is half done, every answer is true when it is given."""

import asyncio
import uuid

import pytest
from support import FIRST_INDEX, WALL, ManualClock, RecordingStore, a_registration, up

from registryd.core.access import Caller
from registryd.core.errors import Forbidden, StaleGeneration, UnknownInstance
from registryd.core.model import Change, Deregister, Report, Resume, SetOverride, Update
from registryd.feed import Feed
from registryd.registry import Registry, Tally, new_id


def ids(registry: Registry, service_name: str = "users") -> list[str]:
    return [lease.instance.instance_id for lease in up(registry, service_name)]


def kinds(changes: list[Change]) -> list[str]:
    return [change.kind for change in changes]


async def test_each_registration_without_an_id_is_a_new_instance(registry: Registry) -> None:
    first = await registry.register(a_registration(instance_id=None))
    second = await registry.register(a_registration(instance_id=None))

    assert first.instance.instance_id != second.instance.instance_id
    assert len(up(registry, "users")) == 2


def test_a_new_id_is_a_random_uuid() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


async def test_an_instance_is_listed_until_its_lease_ends_and_not_after(registry: Registry, clock: ManualClock) -> None:
    await registry.register(a_registration(ttl=30.0))

    clock.advance(29.999)
    assert ids(registry) == ["i1"]
    clock.advance(0.001)
    assert ids(registry) == []
    assert registry.services() == {}
    with pytest.raises(UnknownInstance):
        registry.lease("i1")


async def test_a_heartbeat_gives_another_ttl(registry: Registry, clock: ManualClock) -> None:
    await registry.register(a_registration(ttl=30.0))

    for _ in range(10):
        clock.advance(29)
        registry.renew("i1")

    assert ids(registry) == ["i1"]
    assert registry.tally() == Tally(services=1, instances=1, watchers=0, restored=0, renewed=10, expired=0)


async def test_a_heartbeat_at_the_end_of_the_lease_is_too_late(registry: Registry, clock: ManualClock) -> None:
    await registry.register(a_registration(ttl=30.0))
    clock.advance(30)

    with pytest.raises(UnknownInstance):
        registry.renew("i1")
    assert registry.tally() == Tally(services=0, instances=0, watchers=0, restored=0, renewed=0, expired=1)


async def test_a_late_heartbeat_of_an_old_life_is_refused(registry: Registry, clock: ManualClock) -> None:
    await registry.register(a_registration())
    clock.advance(10)
    await registry.register(a_registration())
    clock.advance(25)

    with pytest.raises(StaleGeneration):
        registry.renew("i1", generation=1)
    clock.advance(5)
    assert ids(registry) == [], "the refused heartbeat has not renewed the new life either"


async def test_the_sweep_expires_when_nobody_asks(
    registry: Registry, clock: ManualClock, store: RecordingStore
) -> None:
    await registry.register(a_registration())
    clock.advance(30)

    registry.sweep()

    assert kinds(store.changes) == ["registered", "expired"]


async def test_the_index_counts_every_visible_change_and_no_heartbeat(registry: Registry, clock: ManualClock) -> None:
    indexes = [registry.index()]
    await registry.register(a_registration())
    indexes.append(registry.index())
    registry.renew("i1")
    await registry.update(Update("i1", Report(status="up")))
    indexes.append(registry.index())
    await registry.update(Update("i1", Report(status="down")))
    indexes.append(registry.index())
    await registry.deregister(Deregister("i1"))
    indexes.append(registry.index())
    await registry.register(a_registration())
    clock.advance(30)
    indexes.append(registry.index())

    assert [index - FIRST_INDEX for index in indexes] == [0, 1, 1, 2, 3, 5]


async def test_a_service_has_an_index_of_its_own_that_outlives_it(registry: Registry) -> None:
    await registry.register(a_registration("users", "u1"))
    await registry.register(a_registration("timelines", "t1"))
    await registry.deregister(Deregister("u1"))
    await registry.register(a_registration("timelines", "t2"))

    assert registry.index("users") == FIRST_INDEX + 3
    assert registry.index("timelines") == FIRST_INDEX + 4
    assert registry.index("nobody") == FIRST_INDEX


async def test_subscribers_get_every_change_once_in_order(registry: Registry, feed: Feed, clock: ManualClock) -> None:
    seen: list[Change] = []
    feed.subscribe(seen.append)

    await registry.register(a_registration(ttl=5.0))
    await registry.update(Update("i1", Report(status="down")))
    await registry.register(a_registration("timelines", ttl=5.0))
    clock.advance(5)
    registry.sweep()

    assert kinds(seen) == ["registered", "updated", "deregistered", "registered", "expired"]
    assert [change.index - FIRST_INDEX for change in seen] == [1, 2, 3, 4, 5]


async def test_heartbeats_and_lookups_do_not_wait_for_the_store(
    registry: Registry, store: RecordingStore, clock: ManualClock
) -> None:
    await registry.register(a_registration(instance_id="i1"))
    store.hold()
    slow = asyncio.ensure_future(registry.register(a_registration(instance_id="i2")))
    await store.waiting.wait()

    clock.advance(20)
    registry.renew("i1")  # these are not even coroutines
    assert ids(registry) == ["i1"], "and what is not stored is not listed"
    clock.advance(29)
    assert ids(registry) == ["i1"]
    clock.advance(1)
    assert ids(registry) == [], "time goes on for those whose lease has ended"

    store.release()
    await slow
    assert ids(registry) == ["i2"]


async def test_the_lease_of_a_registration_begins_after_the_store(
    registry: Registry, store: RecordingStore, clock: ManualClock
) -> None:
    store.hold()
    slow = asyncio.ensure_future(registry.register(a_registration(ttl=1.0)))
    await store.waiting.wait()
    clock.advance(60)
    store.release()

    await slow
    assert ids(registry) == ["i1"]


async def test_a_change_that_the_store_refuses_has_changed_nothing(
    registry: Registry, store: RecordingStore, feed: Feed
) -> None:
    await registry.register(a_registration())
    before = feed.index
    store.fail_with(OSError("disk full"))

    for change in (
        registry.register(a_registration(instance_id="i2")),
        registry.update(Update("i1", Report(status="down"))),
        registry.deregister(Deregister("i1")),
    ):
        with pytest.raises(OSError, match="disk full"):
            await change
    assert ids(registry) == ["i1"]
    assert feed.index == before

    store.fail_with(None)
    await registry.deregister(Deregister("i1"))
    assert ids(registry) == []


async def test_what_ends_while_the_store_works_cannot_be_deregistered(
    registry: Registry, store: RecordingStore, clock: ManualClock
) -> None:
    await registry.register(a_registration())
    store.hold()
    late = asyncio.ensure_future(registry.deregister(Deregister("i1")))
    await store.waiting.wait()
    clock.advance(30)
    registry.sweep()
    store.release()

    with pytest.raises(UnknownInstance):
        await late
    assert kinds(store.changes) == ["registered", "expired", "deregistered"]


async def test_numbers_follow_the_order_in_which_changes_come_true(
    registry: Registry, store: RecordingStore, feed: Feed, clock: ManualClock
) -> None:
    seen: list[Change] = []
    feed.subscribe(seen.append)
    await registry.register(a_registration(instance_id="i1"))
    store.hold()
    slow = asyncio.ensure_future(registry.register(a_registration(instance_id="i2")))
    await store.waiting.wait()
    clock.advance(30)
    registry.sweep()
    store.release()
    await slow

    assert [(change.kind, change.instance.instance_id) for change in seen] == [
        ("registered", "i1"),
        ("expired", "i1"),
        ("registered", "i2"),
    ]
    assert [change.index for change in seen] == sorted(change.index for change in seen)


async def test_a_report_counts_as_a_heartbeat_before_the_store_has_it(
    registry: Registry, store: RecordingStore, clock: ManualClock
) -> None:
    await registry.register(a_registration())
    clock.advance(29)
    store.hold()
    slow = asyncio.ensure_future(registry.update(Update("i1", Report(status="starting"))))
    await store.waiting.wait()
    clock.advance(29)
    store.release()

    assert (await slow).instance.status == "starting"


async def test_a_report_that_changes_nothing_waits_for_nobody(registry: Registry, store: RecordingStore) -> None:
    await registry.register(a_registration())
    same = Update("i1", Report(status="up"))
    store.hold()
    other = asyncio.create_task(registry.register(a_registration(instance_id="i2")))
    await store.waiting.wait()
    assert (await registry.update(same)).status == "up"

    changing = asyncio.create_task(registry.update(Update("i1", Report(status="down"))))
    await asyncio.sleep(0)
    back = asyncio.create_task(registry.update(same))
    await asyncio.sleep(0)
    assert not back.done(), "it is about to be down, so that this would change something"
    store.release()
    await asyncio.gather(other, changing, back)
    assert registry.lease("i1").status == "up"


async def test_nothing_changes_at_once_while_others_wait_for_their_turn(
    registry: Registry, store: RecordingStore
) -> None:
    store.hold()
    waiting = [asyncio.ensure_future(registry.register(a_registration(instance_id=f"i{n}"))) for n in range(3)]
    await store.waiting.wait()
    store.release()
    while not all(one.done() for one in waiting):
        if registry.changes_at_once:
            registry.register_at_once(a_registration(instance_id=None))
        await asyncio.sleep(0)
    assert registry.changes_at_once


async def test_many_at_once_are_all_done_and_each_once(registry: Registry, store: RecordingStore) -> None:
    await asyncio.gather(*(registry.register(a_registration(instance_id=f"i{n % 10}")) for n in range(100)))

    assert sorted(ids(registry)) == sorted(f"i{n}" for n in range(10))
    assert all(registry.lease(f"i{n}").instance.generation == 10 for n in range(10))
    assert len(store.changes) == 100


async def test_a_listing_hands_out_all_that_are_up_and_nobody_else(registry: Registry, clock: ManualClock) -> None:
    await registry.register(a_registration(instance_id="up"))
    await registry.register(a_registration(instance_id="down", status="down"))
    clock.advance(5)
    assert registry.listing("users") is not None
    assert registry.listing("nobody") is None
    await registry.register(a_registration(instance_id="later"))

    assert registry._state.lease("up").handed_out_at == WALL + 5
    assert registry._state.lease("down").handed_out_at == 0
    assert registry._state.lease("later").handed_out_at == 0


async def test_what_was_handed_out_stays_noted_when_it_leaves_the_list_and_when_it_comes_back(
    registry: Registry, clock: ManualClock
) -> None:
    await registry.register(a_registration())
    clock.advance(5)
    registry.listing("users")
    await registry.override(SetOverride("i1", "draining"))
    clock.advance(5)
    registry.listing("users")
    assert registry._state.lease("i1").handed_out_at == WALL + 5

    await registry.override(Resume("i1"))
    assert registry._state.lease("i1").handed_out_at == WALL + 5
    clock.advance(5)
    registry.listing("users")
    assert registry._state.lease("i1").handed_out_at == WALL + 15


@pytest.mark.parametrize("way", ["takeover", "move", "deregister", "expire"])
async def test_when_it_was_handed_out_is_remembered_into_the_next_life(
    registry: Registry, clock: ManualClock, way: str
) -> None:
    await registry.register(a_registration())
    registry.listing("users")
    clock.advance(5)
    if way == "deregister":
        await registry.deregister(Deregister("i1"))
    if way == "expire":
        clock.advance(30)
    await registry.register(a_registration("timelines" if way == "move" else "users"))

    assert registry._state.lease("i1").handed_out_at == WALL


async def twelve_suspects(registry: Registry, clock: ManualClock) -> None:
    registry._state.suspect_share = 0.5
    for n in range(12):
        await registry.register(a_registration(instance_id=f"i{n}", ttl=30.0))
    clock.advance(30)


async def test_whoever_asks_finds_suspects_listed_and_their_index_raised(
    registry: Registry, clock: ManualClock, store: RecordingStore
) -> None:
    await twelve_suspects(registry, clock)
    assert registry.index("users") == FIRST_INDEX + 24
    assert len(ids(registry)) == registry.suspects() == 12
    assert kinds(store.changes[12:]) == ["updated"] * 12

    clock.advance(29.999)
    assert len(ids(registry)) == 12
    clock.advance(0.001)
    assert ids(registry) == []
    assert registry.tally().expired == 12


async def test_a_heartbeat_of_a_suspect_is_a_change_and_the_next_one_is_none(
    registry: Registry, clock: ManualClock
) -> None:
    await twelve_suspects(registry, clock)
    before = registry.index("users")
    assert registry.renew("i3").suspicion is None
    assert registry.index("users") == before + 1
    registry.renew("i3")
    assert registry.renew_all(["i3", "i4", "nobody", "i4"]) == (3, ["nobody"], 0)
    assert registry.index("users") > before + 1
    assert registry.suspects() == 10
    index = registry.index("users")
    registry.renew_all(["i3", "i4"])
    assert registry.index("users") == index
    assert registry.tally().renewed == 7


async def test_a_report_of_a_suspect_ends_it_before_the_store_has_done_its_part(
    registry: Registry, clock: ManualClock, store: RecordingStore
) -> None:
    await twelve_suspects(registry, clock)
    registry.sweep()
    store.hold()
    asked = asyncio.ensure_future(registry.update(Update("i3", Report(weight=7))))
    await store.waiting.wait()
    assert registry.suspects() == 11
    store.release()
    assert (await asked).suspicion is None


async def test_a_heartbeat_of_someone_who_may_not_does_not_end_it(registry: Registry, clock: ManualClock) -> None:
    await twelve_suspects(registry, clock)
    stranger = Caller("stranger", ["read"], ["*"])
    with pytest.raises(Forbidden):
        registry.renew("i3", caller=stranger)
    with pytest.raises(StaleGeneration):
        registry.renew("i3", generation=7)
    assert registry.renew_all(["i3"], stranger) == (0, ["i3"], 1)
    assert registry.suspects() == 12


async def test_a_change_under_way_at_the_end_of_a_lease_comes_true_for_a_suspect(
    registry: Registry, clock: ManualClock, store: RecordingStore, feed: Feed
) -> None:
    registry._state.suspect_share = 0.5
    for n in range(12):
        await registry.register(a_registration(instance_id=f"i{n}", ttl=30.0))
    seen: list[Change] = []
    feed.subscribe(seen.append)
    clock.advance(29)
    store.hold()
    asked = asyncio.ensure_future(registry.override(SetOverride("i3", "draining")))
    await store.waiting.wait()
    clock.advance(1)
    registry.sweep()
    store.release()
    assert (await asked).status == "draining"
    assert (seen[-1].status, seen[-1].suspicion is not None) == ("draining", True)
