"""When very much ends at once it is expired slice by slice, and every answer in between is as exact as ever."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from conftest import Api
from support import ManualClock, RecordingStore, a_registration, up

from registryd.core.choice import Choice
from registryd.core.errors import LimitReached, UnknownInstance
from registryd.core.limits import Limits
from registryd.core.model import Deregister, Report, SetOverride, Update
from registryd.feed import Feed, Watcher
from registryd.registry import Registry

Question = Callable[[Registry], Awaitable[None]]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registryd.registry.SLICE", 3)


@pytest.fixture
def limits() -> Limits:
    return Limits(instances=65, instances_per_service=33)


async def fill_and_let_most_end(registry: Registry, clock: ManualClock) -> None:
    """Thirty instances each of two services end at once; two of each are left."""
    for n in range(30):
        for name in ("users", "timelines"):
            await registry.register(a_registration(name, f"{name}-{n}", ttl=30.0))
    clock.advance(5)
    for n in (1, 2):
        for name in ("users", "timelines"):
            await registry.register(a_registration(name, f"{name}-left-{n}", ttl=30.0))
    clock.advance(25)


async def until_done(registry: Registry) -> None:
    while registry.is_behind:
        await asyncio.sleep(0)


async def a_listing(registry: Registry) -> None:
    listing = registry.listing("users")
    assert listing is not None
    assert list(listing.leases) == ["users-left-1", "users-left-2"]
    assert listing.up == 2


async def a_choice(registry: Registry) -> None:
    assert [lease.instance.instance_id for lease in registry.choose("users", Choice(statuses=None))] == [
        "users-left-1",
        "users-left-2",
    ]
    assert registry.count("timelines", Choice()) == 2


async def all_services(registry: Registry) -> None:
    counts = registry.services()
    assert {name: (one.count, one.up) for name, one in counts.items()} == {"users": (2, 2), "timelines": (2, 2)}


async def the_tally(registry: Registry) -> None:
    tally = registry.tally()
    assert (tally.services, tally.instances, tally.expired) == (2, 4, 60)


async def a_snapshot(registry: Registry) -> None:
    assert len(registry.snapshot([])) == 4
    assert len(registry.snapshot(["users"])) == 2


async def one_instance(registry: Registry) -> None:
    with pytest.raises(UnknownInstance):
        registry.lease("users-29")
    assert registry.lease("users-left-1")


async def a_heartbeat(registry: Registry) -> None:
    with pytest.raises(UnknownInstance):
        registry.renew("users-29")
    assert registry.renew("users-left-1")


async def heartbeats(registry: Registry) -> None:
    assert registry.renew_all(["users-29", "users-left-1", "timelines-28"]) == (1, ["users-29", "timelines-28"], 0)


async def a_report(registry: Registry) -> None:
    for command in (
        Update("users-29", Report(weight=2)),
        Deregister("users-29"),
        SetOverride("users-29", "draining"),
    ):
        with pytest.raises(UnknownInstance):
            await (
                registry.update(command)
                if isinstance(command, Update)
                else registry.deregister(command)
                if isinstance(command, Deregister)
                else registry.override(command)
            )


async def a_registration_under_an_old_id(registry: Registry) -> None:
    lease = await registry.register(a_registration("users", "users-29"))
    assert lease.instance.generation == 2
    assert [event.kind for event in registry.stories("users-29")[0].events] == ["registered", "expired", "registered"]


async def registrations_beyond_the_limit_of_those_that_were_there(registry: Registry) -> None:
    for n in range(31):
        await registry.register(a_registration("users", f"new-{n}"))
    with pytest.raises(LimitReached):
        await registry.register(a_registration("users", "one-too-many"))


async def an_explanation(registry: Registry) -> None:
    (story,) = registry.stories("users-29")
    assert story.lease is None
    assert story.events[-1].kind == "expired"


async def an_index(registry: Registry) -> None:
    before = registry.feed.index_of("timelines")
    assert registry.index("timelines") > before, "the list is another one, so it has another ETag"


QUESTIONS: list[Question] = [
    a_listing, a_choice, all_services, the_tally, a_snapshot, one_instance, a_heartbeat, heartbeats, a_report,
    a_registration_under_an_old_id, registrations_beyond_the_limit_of_those_that_were_there, an_explanation, an_index,
]  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
async def test_whoever_asks_in_between_gets_the_truth(
    registry: Registry, clock: ManualClock, store: RecordingStore, question: Question
) -> None:
    await fill_and_let_most_end(registry, clock)
    registry.sweep()
    assert registry.is_behind
    await question(registry)
    await until_done(registry)

    expired = [change.instance.instance_id for change in store.changes if change.kind == "expired"]
    assert len(expired) == len(set(expired)) == 60, "each once"
    assert len(up(registry, "timelines")) == 2


async def test_it_goes_on_by_itself_a_slice_at_a_time(registry: Registry, clock: ManualClock, feed: Feed) -> None:
    await fill_and_let_most_end(registry, clock)
    watcher = Watcher([], lambda _: None)
    feed.attach(watcher, feed.index)
    registry.sweep()
    seen = []
    while registry.is_behind:
        await asyncio.sleep(0)
        seen.append(len(feed.take(watcher, 1000) or ()))

    assert max(seen) <= 6
    assert sum(seen) == 60
    feed.detach(watcher)


async def test_an_override_that_ends_meanwhile_is_over(registry: Registry, clock: ManualClock) -> None:
    await registry.register(a_registration("users", "drained", ttl=600.0))
    await registry.override(SetOverride("drained", "draining", seconds=30.5))
    await fill_and_let_most_end(registry, clock)
    registry.sweep()
    assert registry.is_behind
    assert registry.count("users", Choice()) == 2
    clock.advance(1)
    assert registry.count("users", Choice()) == 3
    await until_done(registry)


async def test_who_is_left_out_was_not_handed_out(registry: Registry, clock: ManualClock) -> None:
    await fill_and_let_most_end(registry, clock)
    registry.sweep()
    registry.listing("users")
    assert registry.lease("users-left-1", hand_out=False).handed_out_at > 0
    lease = await registry.register(a_registration("users", "users-29"))
    assert lease.handed_out_at == 0
    await until_done(registry)


async def test_one_that_ends_alone_puts_nobody_behind(registry: Registry, clock: ManualClock) -> None:
    for n in range(3):
        await registry.register(a_registration(instance_id=f"i{n}", ttl=30.0 + n))
    for left in (2, 1, 0):
        clock.advance(30 if left == 2 else 1)
        registry.sweep()
        assert not registry.is_behind
        assert len(up(registry, "users")) == left


async def test_watchers_have_turns_between_two_slices(registry: Registry, clock: ManualClock, feed: Feed) -> None:
    await fill_and_let_most_end(registry, clock)
    with contextlib.ExitStack() as seats:
        for _ in range(200):
            seats.enter_context(feed.seat())
        registry.sweep()
        index, turns = feed.index, 0
        while feed.index == index:
            await asyncio.sleep(0)
            turns += 1
    assert turns >= 4
    await until_done(registry)


async def test_readers_over_http_get_the_truth(api: Api, registry: Registry, clock: ManualClock) -> None:
    await fill_and_let_most_end(registry, clock)
    before = await api.get("/services/users")
    assert before.json["count"] == 2
    clock.advance(4)
    for n in range(30):
        await registry.register(a_registration("users", f"again-{n}", ttl=1.0))
    tag = (await api.get("/services/users")).headers["Etag"]
    clock.advance(1)  # the thirty and the two end in the same moment
    registry.sweep()
    assert registry.is_behind

    answer = await api.get("/services/users", If_None_Match=tag)
    assert (answer.status, answer.json["count"]) == (200, 0)
    assert (await api.get("/services/users")).json["count"] == 0
    assert (await api.get("/services")).json["services"] == {}


async def test_those_who_wait_are_woken_a_slice_at_a_time(
    registry: Registry, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registryd.feed.SLICE", 10)
    waiting = [feed.changed("users") for _ in range(35)]
    await registry.register(a_registration())
    woken = [sum(future.done() for future in waiting)]
    while woken[-1] < 35:
        await asyncio.sleep(0)
        woken.append(sum(future.done() for future in waiting))

    assert woken == [10, 20, 30, 35]


# Suspects.


@pytest.fixture
def suspicious(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry._state.suspect_share = 0.5
    return registry


async def cut_off(registry: Registry, clock: ManualClock) -> None:
    """Thirty users of thirty-two end at once, and so few timelines of thirty-two that those are no suspects."""
    for n in range(30):
        for name in ("users", "timelines"):
            await registry.register(a_registration(name, f"{name}-{n}", ttl=30.0))
    clock.advance(20)
    for n in range(9, 30):
        registry.renew(f"timelines-{n}")
    for n in (1, 2):
        for name in ("users", "timelines"):
            await registry.register(a_registration(name, f"{name}-left-{n}", ttl=30.0))
    clock.advance(10)


async def suspects_are_listed(registry: Registry) -> None:
    listing, others = registry.listing("users"), registry.listing("timelines")
    assert listing is not None
    assert (len(listing.leases), listing.up) == (32, 32)
    assert others is not None
    assert (len(others.leases), others.up) == (23, 23)


async def suspects_are_chosen(registry: Registry) -> None:
    assert len(registry.choose("users", Choice(statuses=None))) == 32
    assert registry.count("users", Choice()) == 32
    assert registry.count("timelines", Choice()) == 23


async def services_count_suspects(registry: Registry) -> None:
    counts = registry.services()
    assert {name: (one.count, one.up) for name, one in counts.items()} == {"users": (32, 32), "timelines": (23, 23)}


async def the_tally_counts_suspects(registry: Registry) -> None:
    tally = registry.tally()
    assert (tally.services, tally.instances, tally.expired) == (2, 55, 9)


async def a_snapshot_has_suspects(registry: Registry) -> None:
    assert len(registry.snapshot([])) == 55
    assert len(registry.snapshot(["users"])) == 32
    assert len(registry.snapshot(["timelines"])) == 23


async def a_suspect_is_there_by_itself(registry: Registry) -> None:
    assert registry.lease("users-29")
    with pytest.raises(UnknownInstance):
        registry.lease("timelines-8")


async def a_suspect_can_be_changed(registry: Registry) -> None:
    lease = await registry.override(SetOverride("users-29", "draining"))
    assert lease.status == "draining"
    await registry.deregister(Deregister("users-28"))
    with pytest.raises(UnknownInstance):
        await registry.override(SetOverride("timelines-8", "draining"))
    assert registry.count("users", Choice(statuses=None)) == 31


async def a_suspect_is_explained(registry: Registry) -> None:
    (story,) = registry.stories("users-29")
    assert story.lease is not None


SUSPECT_QUESTIONS: list[Question] = [
    suspects_are_listed, suspects_are_chosen, services_count_suspects, the_tally_counts_suspects,
    a_snapshot_has_suspects, a_suspect_is_there_by_itself, a_suspect_can_be_changed, a_suspect_is_explained,
]  # fmt: skip


@pytest.mark.parametrize("question", SUSPECT_QUESTIONS)
@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_whoever_asks_while_a_cut_comes_to_light_misses_nobody(
    suspicious: Registry, clock: ManualClock, store: RecordingStore, question: Question, turns: int
) -> None:
    await cut_off(suspicious, clock)
    suspicious.sweep()
    for _ in range(turns):
        await asyncio.sleep(0)
    assert suspicious.is_behind
    await question(suspicious)
    await until_done(suspicious)

    told = [change.instance.instance_id for change in store.changes if change.is_passing]
    assert len(told) == len(set(told)), "each once"
    assert set(told) <= {f"users-{n}" for n in range(30)}
    gone = [change.instance.instance_id for change in store.changes if change.kind == "expired"]
    assert sorted(gone) == [f"timelines-{n}" for n in range(9)]
    suspicious._state.check()


async def test_heartbeats_in_a_cut_that_comes_to_light_are_heard(suspicious: Registry, clock: ManualClock) -> None:
    await cut_off(suspicious, clock)
    suspicious.sweep()
    assert suspicious.is_behind
    assert suspicious.renew("users-29").expires_at == clock.now() + 30
    ids = ["users-0", "users-28", "users-left-1", "timelines-8"]
    assert suspicious.renew_all(ids) == (3, ["timelines-8"], 0)
    await until_done(suspicious)
    assert suspicious.suspects() == 27


async def test_the_second_end_of_a_mass_is_as_exact_as_the_first(
    suspicious: Registry, clock: ManualClock, store: RecordingStore
) -> None:
    await cut_off(suspicious, clock)
    suspicious.sweep()
    await until_done(suspicious)
    assert suspicious.suspects() == 30
    clock.advance(19)
    suspicious.renew_all(["users-left-1", "users-left-2", *(f"timelines-{n}" for n in range(9, 30))])
    clock.advance(11)
    suspicious.sweep()
    assert suspicious.is_behind
    assert len(up(suspicious, "users")) == len(suspicious.snapshot(["users"])) == 2
    assert suspicious.services()["users"].count == 2
    with pytest.raises(UnknownInstance):
        suspicious.renew("users-29")
    assert suspicious.renew_all(["users-28"]) == (0, ["users-28"], 0)
    await until_done(suspicious)
    assert suspicious.suspects() == 0
    assert sum(change.kind == "expired" for change in store.changes) == 9 + 30 + 2


async def test_what_was_told_in_between_stays_true_when_some_are_heard(
    suspicious: Registry, clock: ManualClock, store: RecordingStore
) -> None:
    """The verdict on those whose end has come does not change while they wait for their turn."""
    await cut_off(suspicious, clock)
    suspicious.sweep()
    assert suspicious.count("users", Choice()) == 32
    clock.advance(0.3)
    suspicious.renew_all([f"users-{n}" for n in range(25)])
    assert suspicious.count("users", Choice()) == 32
    await until_done(suspicious)
    assert suspicious.count("users", Choice()) == 32
    assert suspicious.suspects() == 5


async def test_readers_over_http_miss_nobody(api: Api, suspicious: Registry, clock: ManualClock) -> None:
    await cut_off(suspicious, clock)
    assert (await api.get("/services/users")).json["count"] == 32
    await until_done(suspicious)
    answer = await api.get("/services/users")
    assert answer.json["count"] == 32
    assert sum(instance.get("suspect", False) for instance in answer.json["instances"]) == 30
