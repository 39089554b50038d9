"""Server-sent events: a snapshot, then every change, once and in order; or what was missed."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import Api, refused
from raw import Served, Wire
from support import FIRST_INDEX, ManualClock, a_registration, up

from registryd.api import render, watch
from registryd.api.context import UnderWay
from registryd.api.watch import Broadcast
from registryd.core.model import Change, Deregister
from registryd.feed import Feed
from registryd.registry import Registry


@dataclass
class Event:
    kind: str
    index: int
    data: Any

    @property
    def instance_id(self) -> str:
        instance_id: str = self.data["instance_id"]
        return instance_id


class Reader:
    """Reads a stream over a bare connection."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._text = ""
        self.comments: list[str] = []

    async def open(self, query: str = "", *headers: str, version: str = "1.1") -> dict[str, str]:
        lines = [f"GET /watch{query} HTTP/{version}", "Host: h", *headers]
        await self._wire.send("\r\n".join([*lines, "", ""]).encode())
        head = (await self._wire.read_until(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 200 "), head
        return dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)

    async def chunk(self) -> bytes:
        """The next chunk of the body; empty at its end."""
        size = int(await self._wire.read_until(b"\r\n"), 16)
        data = await self._wire.read_exactly(size + 2)
        return data[:-2]

    async def event(self) -> Event:
        """The next event, as a browser would see it."""
        while True:
            block, separator, rest = self._text.partition("\n\n")
            if not separator:
                chunk = await self.chunk()
                assert chunk, "the stream goes on"
                self._text += chunk.decode()
                continue
            self._text = rest
            if block.startswith(":"):
                self.comments.append(block)
                continue
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            return Event(fields["event"], int(fields["id"]), json.loads(fields["data"]))

    async def events(self, count: int) -> list[Event]:
        return [await self.event() for _ in range(count)]


@pytest.fixture
def reader_on(http_server: Served) -> Any:
    class Opened:
        """`async with reader_on(query, *headers) as reader:`"""

        def __init__(self, query: str = "", *headers: str) -> None:
            self._args = (query, *headers)

        async def __aenter__(self) -> Reader:
            self._wire = await Wire(http_server).__aenter__()
            reader = Reader(self._wire)
            await reader.open(*self._args)
            return reader

        async def __aexit__(self, *_: object) -> None:
            await self._wire.hang_up()

    return Opened


@pytest.fixture(autouse=True)
def left_in_order(registry: Registry, feed: Feed, broadcast: Broadcast, io_loop: Any) -> Any:
    """Whoever has watched is forgotten at the end."""
    yield

    async def settle() -> None:
        while feed.watchers or broadcast._streams:
            await asyncio.sleep(0)

    io_loop.run_sync(settle, timeout=5)


async def test_a_stream_begins_with_how_things_are(http_server: Served, api: Api) -> None:
    first = await api.register(instance_id="a")
    second = await api.register("timelines", instance_id="b", status="down")
    async with Wire(http_server) as wire:
        headers = await Reader(wire).open()
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Registry-Index"] == str(FIRST_INDEX + 2)
    async with Wire(http_server) as wire:
        reader = Reader(wire)
        await reader.open()
        assert await reader.event() == Event("snapshot", FIRST_INDEX + 2, {"instances": [first, second], "count": 2})


async def test_every_change_follows_once_and_in_order(
    reader_on: Any, api: Api, registry: Registry, clock: ManualClock
) -> None:
    async with reader_on() as reader:
        assert (await reader.event()).data == {"instances": [], "count": 0}
        registered = await api.register(instance_id="a")
        await api.post("/heartbeat/a")
        await api.post("/heartbeat/a", {"status": "starting"})
        drained = (await api.post("/drain/a", {"reason": "deploy"})).json
        await api.delete("/deregister/a")
        await api.register(instance_id="b", ttl=5)
        clock.advance(5)
        registry.beat()

        events = await reader.events(6)
        assert [(event.kind, event.index - FIRST_INDEX, event.instance_id) for event in events] == [
            ("registered", 1, "a"), ("updated", 2, "a"), ("updated", 3, "a"), ("deregistered", 4, "a"),
            ("registered", 5, "b"), ("expired", 6, "b"),
        ]  # fmt: skip
        assert events[0].data == registered
        assert events[2].data == {k: v for k, v in drained.items() if k != "last_handed_out_at"}
        assert events[3].data["status"] == "draining", "as it was"


async def test_suspects_are_heard_of_when_they_come_and_go(
    reader_on: Any, api: Api, registry: Registry, clock: ManualClock
) -> None:
    registry._state.suspect_share = 0.5
    for n in range(12):
        await registry.register(a_registration(instance_id=f"u{n}", ttl=30.0))
    async with reader_on() as reader:
        await reader.event()
        clock.advance(30)
        registry.beat()
        events = await reader.events(12)
        assert {(event.kind, event.data["suspect"]) for event in events} == {("updated", True)}
        await api.post("/heartbeat/u0")
        await api.delete("/deregister/u1")
        heard, gone = await reader.events(2)
        assert (heard.kind, heard.instance_id, "suspect" in heard.data) == ("updated", "u0", False)
        assert heard.data["last_heartbeat"] == "2024-01-15T10:30:30Z"
        assert (gone.kind, gone.data["suspect"]) == ("deregistered", True), "as it was"
        clock.advance(29)
        registry.beat()
    async with reader_on() as reader:
        snapshot = (await reader.event()).data["instances"]
        assert sum(instance.get("suspect", False) for instance in snapshot) == 10
        clock.advance(1)
        registry.beat()
        events = await reader.events(11)
        assert [(event.kind, event.data.get("suspect")) for event in events if event.instance_id != "u0"] == [
            ("expired", True)
        ] * 10


async def test_a_watcher_of_some_services_hears_of_no_other(reader_on: Any, api: Api) -> None:
    await api.register("a", instance_id="a1")
    await api.register("b", instance_id="b1")
    async with reader_on("?service=a&service=c") as reader:
        snapshot = await reader.event()
        assert [instance["instance_id"] for instance in snapshot.data["instances"]] == ["a1"]
        await api.register("b", instance_id="b2")
        await api.register("c", instance_id="c1")
        await api.register("a", instance_id="a2")

        assert [event.instance_id for event in await reader.events(2)] == ["c1", "a2"]


async def test_a_move_to_another_service_is_heard_of_in_both(reader_on: Any, api: Api) -> None:
    await api.register("old", instance_id="a")
    async with reader_on("?service=old") as old, reader_on("?service=new") as new:
        await old.event(), await new.event()
        await api.register("new", instance_id="a")

        assert (await old.event()).kind == "deregistered"
        assert (await new.event()).kind == "registered"


async def test_whoever_comes_back_gets_what_he_has_missed_and_nothing_twice(reader_on: Any, api: Api) -> None:
    async with reader_on() as reader:
        await reader.event()
        await api.register(instance_id="a")
        last = (await reader.event()).index
    await api.register(instance_id="b")
    await api.register(instance_id="c")
    async with reader_on("", f"Last-Event-ID: {last}") as reader:
        await api.register(instance_id="d")

        assert [event.instance_id for event in await reader.events(3)] == ["b", "c", "d"]
        assert reader.comments == [": resumed"]


async def test_whoever_has_missed_nothing_gets_nothing_again(reader_on: Any, api: Api) -> None:
    await api.register(instance_id="a")
    async with reader_on("", f"Last-Event-ID: {FIRST_INDEX + 1}") as reader:
        await api.register(instance_id="b")

        assert (await reader.event()).instance_id == "b"


@pytest.mark.parametrize("last", [0, FIRST_INDEX - 1, FIRST_INDEX + 99, 2**53])
async def test_an_id_that_we_do_not_know_gets_a_fresh_snapshot(reader_on: Any, api: Api, last: int) -> None:
    await api.register(instance_id="a")
    async with reader_on("", f"Last-Event-ID: {last}") as reader:
        event = await reader.event()

        assert (event.kind, event.index, event.data["count"]) == ("snapshot", FIRST_INDEX + 1, 1)


async def test_an_id_that_the_history_has_lost_gets_a_fresh_snapshot(reader_on: Any, api: Api, feed: Feed) -> None:
    feed._kept_changes = 3
    for n in range(5):
        await api.register(instance_id=str(n))
    async with reader_on("", f"Last-Event-ID: {FIRST_INDEX + 2}") as reader:
        assert [event.instance_id for event in await reader.events(3)] == ["2", "3", "4"]
    async with reader_on("", f"Last-Event-ID: {FIRST_INDEX + 1}") as reader:
        assert (await reader.event()).kind == "snapshot"


async def test_a_watcher_of_a_quiet_service_resumes_however_busy_the_others_were(
    reader_on: Any, api: Api, feed: Feed
) -> None:
    feed._kept_changes = 3
    await api.register("quiet", instance_id="q")
    for n in range(10):
        await api.register("busy", instance_id=str(n))
    async with reader_on("?service=quiet", f"Last-Event-ID: {FIRST_INDEX + 1}") as reader:
        await api.register("quiet", instance_id="q2")
        assert (await reader.event()).instance_id == "q2"
        assert reader.comments == [": resumed"]
        for n in range(10):
            await api.register("busy", instance_id=str(n))
        await api.register("quiet", instance_id="q3")
        assert (await reader.event()).instance_id == "q3", "nor is it cut off"


async def test_a_service_named_twice_is_watched_once(reader_on: Any, api: Api) -> None:
    await api.register(instance_id="a")
    async with reader_on("?service=users&service=users") as reader:
        assert (await reader.event()).data["count"] == 1


async def test_a_mass_of_changes_at_once_reaches_those_who_read(
    reader_on: Any, registry: Registry, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "TURN_BYTES", 5000)
    for n in range(3000):
        await registry.register(a_registration("users", f"i{n}"))
    async with reader_on() as all_of_it, reader_on("?service=users&service=x") as some:
        await all_of_it.event(), await some.event()
        clock.advance(30)
        registry.sweep()
        for reader in (all_of_it, some):
            events = await reader.events(3000)
            assert [event.index for event in events] == list(range(FIRST_INDEX + 3001, FIRST_INDEX + 6001))


async def test_a_watcher_who_does_not_read_is_cut_off_on_a_quiet_registry_too(
    http_server: Served, registry: Registry, feed: Feed, broadcast: Broadcast, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = {str(n): "x" * 1000 for n in range(60)}
    for n in range(200):
        await registry.register(a_registration(instance_id=f"i{n}", metadata=metadata))
    async with Wire(http_server, small_buffers=True) as wire:
        reader = Reader(wire)
        await reader.open()
        wire.pause()
        while not any(stream.pipe.is_full for stream in broadcast._streams.values()):
            await asyncio.sleep(0)
        broadcast._keep_alive()
        assert feed.watchers == 1, "it has a while"
        monkeypatch.setattr(watch, "UNREAD_TIMEOUT", 0.0)
        broadcast._keep_alive()
        while feed.watchers:
            await asyncio.sleep(0)
        await wire.was_reset()


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 17, "١"])
async def test_a_bad_id_is_refused(api: Api, last: str) -> None:
    refused(
        await api.get("/watch", Last_Event_ID=last.encode().decode("latin-1")), 400, "invalid_field", "Last-Event-ID"
    )


@pytest.mark.parametrize("query", ["service=a%2Fb", "service=", "services=a", "index=1"])
async def test_a_bad_query_is_refused(api: Api, query: str) -> None:
    answer = await api.get(f"/watch?{query}")

    refused(answer, 400, answer.json["code"], query.partition("=")[0])


async def test_head_says_what_get_would(api: Api) -> None:
    answer = await api("HEAD", "/watch")

    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, "text/event-stream", b"")


async def test_watchers_are_counted_and_forgotten(reader_on: Any, api: Api, feed: Feed, broadcast: Broadcast) -> None:
    async with reader_on() as first, reader_on("?service=a") as second:
        await first.event(), await second.event()
        assert (await api.get("/status")).json["watchers"] == 2
    while feed.watchers:
        await asyncio.sleep(0)

    feed.check()
    assert broadcast._streams == {}


async def test_an_event_is_rendered_once_however_many_watch(
    reader_on: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []
    original = render.change

    def counted(change: Change) -> bytes:
        rendered.append(change.index)
        return original(change)

    monkeypatch.setattr(render, "change", counted)
    monkeypatch.setattr(watch, "SLICE", 2)
    async with reader_on() as a, reader_on() as b, reader_on() as c, reader_on() as d, reader_on("?service=users") as e:
        readers = [a, b, c, d, e]
        for reader in readers:
            await reader.event()
        await api.register(instance_id="x")
        for reader in readers:
            assert (await reader.event()).instance_id == "x"

    assert rendered == [FIRST_INDEX + 1]


async def test_a_quiet_stream_is_kept_awake(reader_on: Any, api: Api, broadcast: Broadcast) -> None:
    assert watch.KEEP_ALIVE == 15
    async with reader_on() as reader:
        await reader.event()
        broadcast._keep_alive()
        assert await reader.chunk() == b": still here\n\n"
        await api.register(instance_id="a")
        assert (await reader.event()).instance_id == "a"


async def test_a_watcher_whom_the_history_has_left_behind_is_cut_off_and_may_resume(
    http_server: Served, reader_on: Any, registry: Registry, feed: Feed, broadcast: Broadcast,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    feed._kept_changes = 50
    metadata = {str(n): "x" * 1000 for n in range(60)}
    async with Wire(http_server, small_buffers=True) as wire:
        reader = Reader(wire)
        await reader.open()
        await reader.event()
        wire.pause()
        n = 0
        while not any(stream.pipe.is_full for stream in broadcast._streams.values()) or n % 100:
            await registry.register(a_registration(instance_id=f"i{n % 5}", metadata=metadata))
            await asyncio.sleep(0)
            n += 1
        for n in range(60):
            await registry.register(a_registration(instance_id=f"i{n % 5}", metadata=metadata))
        assert len(feed._changes) == 50, "what is kept for him is bounded"
        await wire.was_reset()
    assert "watcher cut off: it is too far behind" in caplog.text
    async with reader_on("", f"Last-Event-ID: {feed.index - 10}") as again:
        assert [event.index for event in await again.events(10)] == list(range(feed.index - 9, feed.index + 1))


async def test_a_slow_watcher_gets_everything_in_order(
    http_server: Served, registry: Registry, broadcast: Broadcast
) -> None:
    metadata = {str(n): "x" * 1000 for n in range(60)}
    async with Wire(http_server, small_buffers=True) as wire:
        reader = Reader(wire)
        await reader.open()
        await reader.event()
        wire.pause()
        for n in range(200):
            await registry.register(a_registration(instance_id=f"i{n % 5}", metadata=metadata))
            await asyncio.sleep(0)
        assert any(stream.pipe.is_full for stream in broadcast._streams.values()), "it did have to wait"
        wire.resume()
        events = await reader.events(200)

    assert [event.index - FIRST_INDEX for event in events] == list(range(1, 201))


async def test_the_end_of_the_daemon_ends_the_stream_in_order(
    reader_on: Any, api: Api, feed: Feed, broadcast: Broadcast, under_way: UnderWay
) -> None:
    async with reader_on() as reader:
        await reader.event()
        await api.register(instance_id="a")
        feed.close()
        broadcast.close()
        assert (await reader.event()).instance_id == "a", "what it was to be told comes first"
        assert await reader.chunk() == b"", "and then the proper end"
    await under_way.wait_until_none()


async def test_a_stream_over_http_1_0_is_not_chunked(http_server: Served, api: Api) -> None:
    async with Wire(http_server) as wire:
        reader = Reader(wire)
        headers = await reader.open(version="1.0")
        assert "Transfer-Encoding" not in headers
        assert (await wire.read_until(b"\n\n")).startswith(b"event: snapshot\n")
        await api.register(instance_id="a")
        assert (await wire.read_until(b"\n\n")).startswith(b"event: registered\n")


async def test_being_told_that_it_is_up_is_being_handed_out(
    reader_on: Any, api: Api, clock: ManualClock, registry: Registry
) -> None:
    async def last() -> Any:
        return (await api.get("/explain/a")).json["instances"][0]["last_handed_out_at"]

    await api.register(instance_id="a")
    clock.advance(5)
    async with reader_on() as reader:
        await reader.event()
        assert await last() == "2024-01-15T10:30:05Z"
        clock.advance(5)
        await api.post("/heartbeat/a", {"weight": 3})
        await reader.event()
        assert await last() == "2024-01-15T10:30:10Z"
        clock.advance(5)
        await api.post("/drain/a")
        await reader.event()
        assert await last() == "2024-01-15T10:30:10Z", "nobody goes where he is told that it is drained"


async def test_a_change_between_snapshot_and_first_event_is_in_one_of_them(reader_on: Any, registry: Registry) -> None:
    for n in range(100):
        await registry.register(a_registration(instance_id=str(n)))

    async def churn() -> AsyncIterator[None]:
        for n in range(100):
            await registry.deregister(Deregister(str(n)))
            yield
            await asyncio.sleep(0)

    step = churn()
    async with reader_on() as reader:
        event = await reader.event()
        there = {instance["instance_id"] for instance in event.data["instances"]}
        async for _ in step:
            pass
        last = event.index
        while there:
            event = await reader.event()
            assert event.index == last + 1
            last = event.index
            there.remove(event.instance_id)
    assert up(registry, "users") == []
