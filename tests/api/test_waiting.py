"""Long polls: woken by what concerns them and by nothing else, and gone without a trace when the client goes."""

import asyncio
from typing import Any

import pytest
from conftest import Api, refused
from raw import Served, Wire
from support import FIRST_INDEX, ManualClock

from registryd.api.context import UnderWay
from registryd.core.limits import Limits
from registryd.core.model import Deregister
from registryd.feed import Feed
from registryd.registry import Registry


async def waiting(feed: Feed, count: int = 1) -> None:
    """Waits until so many wait."""
    while sum(map(len, feed._waiting.values())) < count:
        await asyncio.sleep(0)


def index_of(answer: Any) -> int:
    return int(answer.headers["Registry-Index"])


@pytest.mark.parametrize("path", ["/services/users", "/services"])
async def test_a_reader_waits_for_the_next_change(api: Api, feed: Feed, path: str) -> None:
    await api.register(instance_id="a")
    index = index_of(await api.get(path))
    poll = asyncio.ensure_future(api.get(f"{path}?index={index}&wait=1m"))
    await waiting(feed)
    await api.post("/heartbeat/a")
    assert not poll.done()

    await api.register(instance_id="b")
    answer = await poll
    assert (answer.status, index_of(answer)) == (200, index + 1)
    assert '"count":2' in answer.body.decode()


@pytest.mark.parametrize("change", ["deregister", "expire", "status", "metadata", "drain"])
async def test_every_visible_change_wakes(
    api: Api, feed: Feed, registry: Registry, clock: ManualClock, change: str
) -> None:
    await api.register(instance_id="a")
    poll = asyncio.ensure_future(api.get(f"/services/users?index={FIRST_INDEX + 1}&wait=1m"))
    await waiting(feed)
    match change:
        case "deregister":
            await api.delete("/deregister/a")
        case "expire":
            clock.advance(30)
            registry.beat()
        case "status":
            await api.post("/heartbeat/a", {"status": "down"})
        case "metadata":
            await api.post("/heartbeat/a", {"metadata": {"a": "b"}})
        case "drain":
            await api.post("/drain/a")

    answer = await poll
    assert index_of(answer) == FIRST_INDEX + 2
    assert answer.json["count"] == (1 if change == "metadata" else 0)


async def test_another_services_change_wakes_nobody(api: Api, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.register("b", instance_id="b")
    index = index_of(await api.get("/services/b"))
    futures: list[asyncio.Future[None]] = []
    original = Feed.changed

    def counted(self: Feed, service_name: str | None) -> asyncio.Future[None]:
        futures.append(original(self, service_name))
        return futures[-1]

    monkeypatch.setattr(Feed, "changed", counted)
    poll = asyncio.ensure_future(api.get(f"/services/b?index={index}&wait=1m"))
    await waiting(feed)
    for n in range(100):
        await api.register("a", instance_id=str(n))
    assert [future.done() for future in futures] == [False]
    assert not poll.done()

    await api.delete("/deregister/b")
    await poll
    assert [future.done() for future in futures] == [True]


async def test_a_change_between_the_look_and_the_wait_is_not_missed(
    api: Api, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.register(instance_id="a")
    original = asyncio.wait

    async def late(*args: Any, **kwargs: Any) -> Any:
        await registry.deregister(Deregister("a"))  # in the very moment in which the reader begins to wait
        return await original(*args, **kwargs)

    monkeypatch.setattr(asyncio, "wait", late)
    answer = await api.get(f"/services/users?index={FIRST_INDEX + 1}&wait=10m")
    assert (answer.json["count"], index_of(answer)) == (0, FIRST_INDEX + 2)


async def test_when_the_time_is_up_the_index_is_the_same(api: Api) -> None:
    await api.register(instance_id="a")
    answer = await api.get(f"/services/users?index={FIRST_INDEX + 1}&wait=10ms")

    assert (answer.status, index_of(answer), answer.json["count"]) == (200, FIRST_INDEX + 1, 1)


@pytest.mark.parametrize("index", [0, FIRST_INDEX - 1, FIRST_INDEX, FIRST_INDEX + 2, 2**53 - 1])
@pytest.mark.parametrize("path", ["/services/users", "/services"])
async def test_an_index_that_is_not_ours_is_answered_at_once(api: Api, feed: Feed, path: str, index: int) -> None:
    await api.register(instance_id="a")
    answer = await api.get(f"{path}?index={index}&wait=10m")

    assert (answer.status, index_of(answer)) == (200, FIRST_INDEX + 1)


async def test_a_name_that_nobody_has_registered_can_be_waited_for(api: Api, feed: Feed) -> None:
    index = index_of(await api.get("/services/users"))
    poll = asyncio.ensure_future(api.get(f"/services/users?index={index}&wait=1m"))
    await waiting(feed)
    await api.register("other")
    await api.register(instance_id="a")

    assert (await poll).json["count"] == 1


async def test_min_waits_for_enough_that_fit(api: Api, feed: Feed) -> None:
    poll = asyncio.ensure_future(api.get("/services/users?min=2&tag=blue&wait=1m&limit=1"))
    await waiting(feed)
    await api.register(instance_id="a", tags=["blue"])
    await api.register(instance_id="b", tags=["red"])
    await api.register(instance_id="c", tags=["blue"], status="starting")
    assert not poll.done()
    await api.post("/heartbeat/c", {"status": "up"})

    answer = await poll
    assert answer.status == 200
    assert [instance["instance_id"] for instance in answer.json["instances"]] == ["a"], "limit holds all the same"


@pytest.mark.parametrize("wait", ["", "&wait=10ms"])
async def test_min_that_is_not_reached_is_a_408(api: Api, wait: str) -> None:
    await api.register(instance_id="a")

    detail = refused(await api.get(f"/services/users?min=2{wait}"), 408, "too_few_instances")
    assert "there are 1 instances that fit, and not 2 yet" in detail
    assert (await api.get("/services/users?min=1")).status == 200


async def test_a_client_that_goes_while_it_waits_leaves_nothing_behind(
    http_server: Served, api: Api, feed: Feed, under_way: UnderWay
) -> None:
    await api.register(instance_id="a")
    async with Wire(http_server) as wire:
        path = f"/services/users?index={FIRST_INDEX + 1}&wait=10m"
        await wire.send(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode())
        await waiting(feed)
        assert (feed.watchers, len(under_way)) == (1, 1)
    await under_way.wait_until_none()
    while feed.watchers:
        await asyncio.sleep(0)

    feed.check()


async def test_the_end_of_the_daemon_is_an_answer(api: Api, feed: Feed) -> None:
    await api.register(instance_id="a")
    polls = [
        asyncio.ensure_future(api.get(path))
        for path in (
            f"/services/users?index={FIRST_INDEX + 1}&wait=10m",
            f"/services?index={FIRST_INDEX + 1}&wait=10m",
            "/services/users?min=5&wait=10m",
        )
    ]
    await waiting(feed, 3)
    feed.close()

    assert [(await poll).status for poll in polls] == [200, 200, 408]
    assert (await api.get(f"/services?index={FIRST_INDEX + 1}&wait=10m")).status == 200, "nobody waits any more"


async def test_waiting_readers_are_counted(api: Api, feed: Feed) -> None:
    polls = [asyncio.ensure_future(api.get(f"/services?index={FIRST_INDEX}&wait=1m")) for _ in range(3)]
    await waiting(feed, 3)
    assert (await api.get("/status")).json["watchers"] == 3

    await api.register()
    await asyncio.gather(*polls)
    assert (await api.get("/status")).json["watchers"] == 0


class TestOfFewSeats:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(watchers=2)

    async def test_too_many_are_refused_and_told_to_come_back(self, api: Api, feed: Feed) -> None:
        polls = [asyncio.ensure_future(api.get(f"/services?index={FIRST_INDEX}&wait=1m")) for _ in range(2)]
        await waiting(feed, 2)
        for path in (f"/services?index={FIRST_INDEX}&wait=1m", "/services/x?min=1&wait=1m", "/watch"):
            answer = await api.get(path)
            assert "--max-watchers" in refused(answer, 429, "limit_reached")
            assert answer.headers["Retry-After"] == "1"
        assert (await api.get("/services")).status == 200, "those who do not wait are served"

        await api.register()
        await asyncio.gather(*polls)
