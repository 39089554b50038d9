"""Floods, on each server: who asks too often, holds too many connections, or does not take what he has asked for."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from conftest import Api, ExpectLog, refused
from raw import Served, Wire

from registryd.overload import Overload

WATCH = b"GET /watch HTTP/1.1\r\nHost: h\r\n\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
HERE = "127.0.0.1"


def spend(overload: Overload, most: int = 1, left: int = 0) -> None:
    """So many requests are left to the address of the tests, and time stands still."""
    overload.rates._clock = lambda: 100.0
    overload.rates.most = most
    overload.rates._buckets = {HERE: (left, 100.0)}


async def test_a_request_too_many_is_a_429_that_names_the_limit(
    api: Api, overload: Overload, expect_log: ExpectLog
) -> None:
    await api.register()
    spend(overload)
    with expect_log(r"127\.0\.0\.1 makes more than 1 requests a second"):
        for method, path, body in [
            ("GET", "/services/users", None),
            ("GET", "/services", None),
            ("POST", "/register", {"service_name": "users", "base_url": "http://h"}),
            ("GET", "/nowhere", None),
        ]:
            answer = await api(method, path, body)
            detail = refused(answer, 429, "too_many_requests")
            assert "more than 1 requests a second (--max-requests-per-address)" in detail
            assert answer.headers["Retry-After"] == "1"

    overload.rates.most = 0
    status = (await api.get("/status")).json
    assert status["instances"] == 1
    assert status["overload"] == {
        "connections_refused": 0, "crowded_out": 0, "requests_refused": 4, "cut_off": 0, "waiting_bytes": 0
    }  # fmt: skip


async def test_each_request_takes_one_whichever_way_it_goes(
    api: Api, overload: Overload, expect_log: ExpectLog
) -> None:
    await api.register(instance_id="a")
    spend(overload, most=5, left=5)
    for path in ("/services/users", "/services/users?limit=1", "/services/nobody", "/services", "/livez"):
        assert (await api.get(path)).status == 200
    with expect_log("more than 5 requests"):
        assert (await api.get("/services/users")).status == 429


async def test_a_heartbeat_is_never_one_too_many(api: Api, overload: Overload, expect_log: ExpectLog) -> None:
    await api.register(instance_id="a-b")
    spend(overload)
    for path, body in [
        ("/heartbeat/a-b", b""),
        ("/heartbeat/a%2Db/?generation=1", b""),
        ("/heartbeat/a-b", {"status": "starting"}),
        ("/heartbeats", {"instance_ids": ["a-b", "c"]}),
    ]:
        assert (await api.post(path, body)).status == 200, path
    assert (await api.post("/heartbeats", {"instance_ids": ["b", "c"]})).status == 200
    with expect_log("more than 1 requests"):
        assert (await api.post("/heartbeats", {"instance_ids": ["b", "c"]})).status == 429, "the last one kept none"
        assert (await api.post("/heartbeat/unknown")).status == 429, "it keeps no lease"
        assert (await api.post("/heartbeat/a-b/more")).status == 429
        assert (await api.get("/heartbeat/a-b")).status == 429


async def test_the_one_connection_too_many_of_an_address_has_an_idle_one_closed(
    http_server: Served, http_kind: str, overload: Overload, expect_log: ExpectLog
) -> None:
    overload.crowd.most = 3
    async with AsyncExitStack() as stack:
        watcher, idle, last = [await stack.enter_async_context(Wire(http_server)) for _ in range(3)]
        await watcher.send(WATCH)
        await watcher.read_until(b"event: snapshot")
        for wire in (idle, last):
            await wire.send(LIVE)
            assert (await wire.answer()).status == 200
        losses = listen_for_losses(overload)
        with expect_log(r"127\.0\.0\.1 has 3 connections \(--max-connections-per-address\)"):
            new = await stack.enter_async_context(Wire(http_server))
            await new.send(LIVE)
            assert (await new.answer()).status == 200
        assert await idle.rest() == b""
        assert bool(losses) == (http_kind == "tornado"), "what stands between two requests has sent none"
        await last.send(LIVE)
        assert (await last.answer()).status == 200
        assert len(http_server.http) == 3
    assert overload.crowd.crowded_out == 1


async def test_a_crowd_of_watchers_cannot_keep_a_heartbeat_out(
    http_server: Served, overload: Overload, expect_log: ExpectLog
) -> None:
    overload.crowd.most = 2
    async with AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(Wire(http_server)) for _ in range(2)]
        for wire in watchers:
            await wire.send(WATCH)
            await wire.read_until(b"event: snapshot")
        with expect_log("for each that comes an idle one is closed, or else the oldest"):
            new = await stack.enter_async_context(Wire(http_server))
            await new.send(LIVE)
            assert (await new.answer()).status == 200
        await watchers[0].cut_off()
        assert len(http_server.http) == 2


async def test_who_does_not_read_what_he_has_asked_for_is_cut_off_before_it_is_too_much(
    http_server: Served, api: Api, overload: Overload, expect_log: ExpectLog
) -> None:
    for n in range(1000):
        await api.register(instance_id=f"{n:04}", metadata={"k": "v" * 1000})
    ask = b"GET /services/users HTTP/1.1\r\nHost: h\r\n\r\n"
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(Wire(http_server, small_buffers=True)) for _ in range(5)]
        for reader in readers:
            reader.pause()
            await reader.send(ask * 8)
        overload.waiting.most = 2_000_000
        with expect_log(r"more than 2000000 bytes wait for clients .*--max-waiting-bytes"):
            for _ in range(8):
                late = await stack.enter_async_context(Wire(http_server, small_buffers=True))
                late.pause()
                await late.send(ask * 8)
                for _ in range(20):
                    await asyncio.sleep(0)
            while not overload.waiting.let_go:
                await asyncio.sleep(0)
        assert (await api.get("/livez")).status == 200
        assert overload.waiting.bytes <= 2_000_000
    while overload.waiting.bytes:
        await asyncio.sleep(0)


async def test_what_a_watcher_does_not_read_counts(
    http_server: Served, api: Api, overload: Overload, expect_log: ExpectLog
) -> None:
    for n in range(300):  # 9 MB, more than a socket holds
        await api.register(instance_id=f"{n:04}", metadata={str(n): "v" * 1000 for n in range(30)})
    overload.waiting.most = 20_000_000
    async with AsyncExitStack() as stack:
        watchers = []
        with expect_log(r"more than 20000000 bytes wait for clients"):
            while not overload.waiting.let_go:
                watchers.append(await stack.enter_async_context(Wire(http_server, small_buffers=True)))
                watchers[-1].pause()
                before = overload.waiting.bytes
                await watchers[-1].send(WATCH)
                while overload.waiting.bytes == before and not overload.waiting.let_go:
                    await asyncio.sleep(0)
        assert 0 < overload.waiting.bytes <= 20_000_000
        await watchers[0].was_reset()
        assert (await api.get("/livez")).status == 200
    while overload.waiting.bytes:
        await asyncio.sleep(0)


async def test_a_head_that_does_not_end_counts_on_the_front(
    http_server: Served, http_kind: str, overload: Overload, expect_log: ExpectLog
) -> None:
    overload.waiting.most = 20_000
    async with Wire(http_server) as first, Wire(http_server) as second:
        await first.send(b"GET /livez HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 12_000)
        if http_kind == "tornado":  # whose buffer it is in, where nobody can look
            return
        while overload.waiting.bytes < 12_000:
            await asyncio.sleep(0)
        with expect_log("or send slowly"):
            await second.send(b"GET /livez HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 12_000)
            await first.was_reset()
        await second.send(b"\r\n\r\n")
        assert (await second.answer()).status == 200
        assert overload.waiting.bytes == 0


@pytest.mark.parametrize(
    "header", [b"Connection: close", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c", b"X: y"]
)
async def test_a_head_that_has_come_in_two_pieces_counts_no_longer(
    http_server: Served, overload: Overload, header: bytes
) -> None:
    async with Wire(http_server) as wire:
        await wire.send(b"GET /watch HTTP/1.1\r\nHost: h\r\n" + header + b"\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        await wire.send(b"\r\n")
        await wire.read_until(b"event: snapshot")
        assert overload.waiting.bytes == 0


async def test_who_has_not_taken_his_answer_is_not_idle_and_is_reset_for_another(
    http_server: Served, api: Api, overload: Overload, expect_log: ExpectLog
) -> None:
    for n in range(200):  # 240 kB, which a socket holds
        await api.register(instance_id=f"{n:04}", metadata={"k": "v" * 1000})
    overload.crowd.most = 1
    async with Wire(http_server, small_buffers=True) as first:
        first.pause()
        await first.send(b"GET /services/users HTTP/1.1\r\nHost: h\r\n\r\n")
        while not overload.crowd._by_place or overload.waiting.bytes:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        with expect_log("has 1 connections"):
            async with Wire(http_server) as second:
                await second.send(LIVE)
                assert (await second.answer()).status == 200
        await first.was_reset()


def listen_for_losses(overload: Overload) -> list[float]:
    """When lease time was told to stand still, on a clock that we hold."""
    overload._clock = lambda: 50.0
    losses: list[float] = []
    overload.stand_still = lambda: losses.append(50.0)
    return losses


async def test_a_refused_heartbeat_for_many_ends_no_lease(api: Api, overload: Overload, expect_log: ExpectLog) -> None:
    spend(overload)
    overload.rates.note_renewals(HERE, 0)
    losses = listen_for_losses(overload)
    with expect_log("more than 1 requests"):
        assert (await api.get("/livez")).status == 429
        assert losses == []
        assert (await api.post("/heartbeats", {"instance_ids": ["a"]})).status == 429
    assert losses == [50.0]
    assert not overload.hears()
    overload._clock = lambda: 51.0
    assert overload.hears()


async def test_bodies_that_do_not_end_are_bounded_in_all(
    http_server: Served, api: Api, overload: Overload, expect_log: ExpectLog
) -> None:
    overload.waiting.most = 250_000
    head = b"POST /register HTTP/1.1\r\nHost: h\r\nContent-Length: 150000\r\n\r\n"
    async with Wire(http_server) as first, Wire(http_server) as second:
        await first.send(head + b" " * 140_000)
        while overload.waiting.bytes < 140_000:
            await asyncio.sleep(0)
        assert (await api.get("/status")).json["overload"]["waiting_bytes"] >= 140_000
        losses = listen_for_losses(overload)
        with expect_log("or send slowly"):
            await second.send(head + b" " * 140_000)
            await first.cut_off()
        assert losses, "it may have been a heartbeat"
        assert overload.waiting.let_go == 1
        await second.send(b" " * 10_000)
        assert (await second.answer()).status == 400
        while overload.waiting.bytes:
            await asyncio.sleep(0)
