"""The asyncio shell, against the real registry in this process; a test lets its sleeps end."""

import asyncio
import logging
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Api, ExpectLog
from raw import Served
from scripted import Answer, Asked, StartScripted, answered
from support import ManualClock, RecordingStore, up
from tornado.httputil import HTTPHeaders, ResponseStartLine

from registryd.client import RegistrationRefused, deregister_service, register_service
from registryd.client.aio import Discovery, Heartbeats, Registration, Watch, _current, registered
from registryd.client.registries import DEFAULT_URL, Registries, registry_urls
from registryd.client.session import Session
from registryd.core.model import Deregister, Register
from registryd.registry import Registry


class Pace:
    """Sleeps that last until the test says `go`, and the time that has passed by them."""

    def __init__(self) -> None:
        self.moment = 1000.0
        self.asked: list[float] = []
        self._asleep = asyncio.Event()
        self._go = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        self._asleep.set()
        await self._go.acquire()
        self.moment += seconds

    def now(self) -> float:
        return self.moment

    async def go(self) -> None:
        """Lets the current sleep end, and waits until the next one begins."""
        await self._asleep.wait()
        self._asleep.clear()
        self._go.release()
        await self._asleep.wait()


@pytest.fixture
def url(http_server: Served) -> str:
    (sock,) = http_server._sockets.values()
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def pace(io_loop: Any) -> Pace:
    return Pace()


@pytest.fixture
def no_registrations() -> Iterator[None]:
    yield
    assert not _current


def a_registration_at(url: str, pace: Pace, **more: object) -> Registration:
    instance = {"service_name": "users", "base_url": "http://10.0.0.5:8000", "instance_id": "users-1"} | more
    registries = Registries([url])
    return Registration(Session(registries, instance, random.Random(7)), Heartbeats(registries, pace.sleep, pace.now))


async def test_the_seeds_use(
    url: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, no_registrations: None
) -> None:
    monkeypatch.setenv("REGISTRY_URL", url)
    registration = await register_service("users", "http://10.0.0.5:8000")
    (lease,) = up(registry, "users")
    assert lease.instance.instance_id == registration.instance_id
    assert lease.instance.base_url == "http://10.0.0.5:8000"
    assert registration.is_registered

    await deregister_service()
    assert up(registry, "users") == []


async def test_everything_an_instance_can_say_is_sent(
    url: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, no_registrations: None
) -> None:
    monkeypatch.setenv("REGISTRY_URL", url)
    await register_service(
        "users", "http://h:1", instance_id="u1", ttl=5, status="starting", metadata={"a": "b"}, tags=["x"],
        version="1", zone="z", weight=3,
    )  # fmt: skip
    instance = registry.lease("u1").instance
    await deregister_service()

    assert (instance.ttl, instance.status, instance.metadata, instance.tags) == (5.0, "starting", {"a": "b"}, ("x",))
    assert (instance.version, instance.zone, instance.weight) == ("1", "z", 3)


async def test_several_registrations_are_all_taken_off(
    url: str, registry: Registry, monkeypatch: pytest.MonkeyPatch, no_registrations: None
) -> None:
    monkeypatch.setenv("REGISTRY_URL", url)
    await register_service("users", "http://h:1")
    await register_service("timelines", "http://h:2")
    assert registry.services().keys() == {"users", "timelines"}

    await deregister_service()
    assert registry.services() == {}
    await deregister_service()


async def test_heartbeats_go_out_by_themselves(url: str, registry: Registry, pace: Pace, clock: ManualClock) -> None:
    registration = a_registration_at(url, pace)
    await registration.start()
    for _ in range(5):
        clock.advance(20)
        await pace.go()
    await registration.stop()

    assert registry.tally().renewed == 5
    assert all(9 <= wait <= 11 for wait in pace.asked)


async def test_it_registers_again_when_the_registry_has_forgotten_it(
    url: str, registry: Registry, pace: Pace, caplog: pytest.LogCaptureFixture
) -> None:
    registration = a_registration_at(url, pace)
    await registration.start()
    await registry.deregister(Deregister("users-1"))
    await pace.go()

    assert [lease.instance.instance_id for lease in up(registry, "users")] == ["users-1"]
    assert registration.is_registered
    assert "has forgotten instance=users-1; registering again" in caplog.text
    await registration.stop()


async def test_a_registry_that_is_down_at_the_start_is_waited_for(
    http_server: Served, registry: Registry, pace: Pace, expect_log: ExpectLog, api: Api
) -> None:
    (sock,) = http_server._sockets.values()
    port = sock.getsockname()[1]
    http_server.stop_listening()
    registration = a_registration_at(f"http://127.0.0.1:{port}", pace)

    with expect_log("no answer from the registry at http://127.0.0.1:.*trying again"):
        await registration.start()
    assert not registration.is_registered
    for _ in range(3):
        await pace.go()
    assert pace.asked == sorted(pace.asked), "it backs off"

    http_server.listen(port)
    await pace.go()
    assert registration.is_registered
    assert len(up(registry, "users")) == 1
    await registration.stop()


async def test_a_registry_that_does_not_answer_holds_nobody_up(
    pace: Pace, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registryd.client.session.LONGEST_ANSWER", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never says a word
        registration = a_registration_at(f"http://127.0.0.1:{silent.getsockname()[1]}", pace)
        with expect_log("no answer from the registry.*Timeout"):
            await registration.start()
        assert not registration.is_registered
        await registration.stop()


def test_a_loop_that_ends_takes_its_heartbeats_with_it(expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_URL", "http://127.0.0.1:1")

    async def register(then_deregister: bool) -> None:
        await register_service("users", "http://h:1")
        if then_deregister:
            await deregister_service()

    with expect_log("no answer from the registry"):
        asyncio.run(register(then_deregister=False))
    with expect_log("no answer from the registry"):
        asyncio.run(register(then_deregister=True))
    assert not _current


async def test_whoever_is_cancelled_while_it_registers_leaves_nothing_behind(
    url: str, registry: Registry, store: RecordingStore, pace: Pace
) -> None:
    before = asyncio.all_tasks()
    store.hold()
    registration = a_registration_at(url, pace)
    starting = asyncio.ensure_future(registration.start())
    await store.waiting.wait()
    starting.cancel()
    await asyncio.wait({starting})
    store.release()
    await registration.stop()

    assert up(registry, "users") == []
    assert [change.kind for change in store.changes] == ["registered", "deregistered"]
    assert not [task for task in asyncio.all_tasks() - before if "registryd" in task.get_name()]


def test_a_program_that_ends_while_it_registers_waits_until_it_is_taken_off(
    start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending: list[asyncio.Task[None]] = []

    def answer(asked: Asked) -> Answer:
        if asked.method == "POST":
            ending[0].get_loop().call_soon_threadsafe(ending[0].cancel)
        return answered({"ttl": 30.0, "generation": 1})

    async def main() -> None:
        ending.append(asyncio.ensure_future(block()))
        await asyncio.wait(ending)

    async def block() -> None:
        async with registered("users", "http://h:1"):
            await asyncio.Event().wait()

    registry = start_scripted(answer)
    monkeypatch.setenv("REGISTRY_URL", registry.url)
    asyncio.run(main())
    assert [asked.method for asked in registry.asked] == ["POST", "DELETE"]


async def test_a_stop_while_a_heartbeat_is_on_its_way_waits_for_it(
    url: str, registry: Registry, store: RecordingStore, pace: Pace
) -> None:
    registration = a_registration_at(url, pace)
    await registration.start()
    await registry.deregister(Deregister("users-1"))
    store.hold()
    pace._go.release()  # it registers again
    await store.waiting.wait()
    stopping = asyncio.ensure_future(registration.stop())
    await asyncio.sleep(0)
    store.release()
    await stopping

    assert up(registry, "users") == []


async def test_the_next_registry_takes_over_when_one_is_gone(
    http_server: Served, url: str, registry: Registry, pace: Pace, expect_log: ExpectLog
) -> None:
    await registry.register(Register(service_name="users", base_url="http://10.0.0.9:1", instance_id="users-1"))
    instance = {"service_name": "users", "base_url": "http://10.0.0.5:8000", "instance_id": "users-1"}
    registries = Registries(["http://127.0.0.1:1", url])
    session = Session(registries, instance, random.Random(7))
    registration = Registration(session, Heartbeats(registries, pace.sleep, pace.now))
    with expect_log("no answer from the registry at http://127.0.0.1:1:"):
        await registration.start()
    await pace.go()

    assert registration.is_registered
    assert registry.lease("users-1").instance.base_url == "http://10.0.0.5:8000"
    await registration.stop()


async def test_a_password_in_the_url_stays_out_of_the_log(
    pace: Pace, expect_log: ExpectLog, caplog: pytest.LogCaptureFixture
) -> None:
    registration = a_registration_at("http://user:secret@127.0.0.1:1", pace)
    with expect_log(r"no answer from the registry at http://127\.0\.0\.1:1:"):
        await registration.start()
    await registration.stop()

    assert "secret" not in caplog.text


async def test_a_refused_farewell_is_said(url: str, registry: Registry, pace: Pace, expect_log: ExpectLog) -> None:
    registration = a_registration_at(url, pace)
    await registration.start()

    async def fail(*_: object) -> None:
        raise RuntimeError("planted")

    registry.deregister = fail  # type: ignore[assignment, method-assign]
    with (
        expect_log("failed request=DELETE"),
        expect_log("could not deregister instance=users-1: the registry answers 500"),
    ):
        await registration.stop()


async def test_trouble_is_said_once_and_so_is_its_end(
    http_server: Served, pace: Pace, expect_log: ExpectLog, caplog: pytest.LogCaptureFixture
) -> None:
    (sock,) = http_server._sockets.values()
    port = sock.getsockname()[1]
    registration = a_registration_at(f"http://127.0.0.1:{port}", pace)
    await registration.start()
    http_server.stop_listening()
    await http_server.hang_up()
    with expect_log("no answer from the registry"):
        for _ in range(10):
            await pace.go()
    http_server.listen(port)
    await pace.go()
    await registration.stop()

    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert caplog.text.count("registered instance=users-1") == 2


async def test_a_lost_answer_does_not_make_two_instances(
    url: str, registry: Registry, store: RecordingStore, pace: Pace
) -> None:
    registration = a_registration_at(url, pace, instance_id=None)
    await registry.register(
        Register(service_name="users", base_url="http://10.0.0.5:8000", instance_id=registration.instance_id)
    )  # as the first try did, whose answer never came
    await registration.start()

    assert len(up(registry, "users")) == 1
    await registration.stop()
    assert up(registry, "users") == []


async def test_a_wrong_registration_is_refused_to_the_caller(
    url: str, monkeypatch: pytest.MonkeyPatch, no_registrations: None
) -> None:
    monkeypatch.setenv("REGISTRY_URL", url)
    with pytest.raises(RegistrationRefused, match="service_name"):
        await register_service("us/ers", "http://h:1")
    with pytest.raises(RegistrationRefused, match="base_url has no host"):
        await register_service("users", "http://")


async def test_whoever_is_taken_over_stops_and_leaves_the_new_one_alone(
    url: str, registry: Registry, pace: Pace, expect_log: ExpectLog
) -> None:
    registration = a_registration_at(url, pace)
    await registration.start()
    await registry.register(Register(service_name="users", base_url="http://10.0.0.6:8000", instance_id="users-1"))
    task = registration._heartbeats._task
    assert task is not None
    with expect_log("another process has taken over instance=users-1"):
        pace._go.release()
        await task
    await registration.stop()

    assert [lease.instance.base_url for lease in up(registry, "users")] == ["http://10.0.0.6:8000"]


async def test_a_late_farewell_does_not_end_a_newer_life(url: str, registry: Registry, pace: Pace) -> None:
    registration = a_registration_at(url, pace)
    await registration.start()
    await registry.register(Register(service_name="users", base_url="http://10.0.0.6:8000", instance_id="users-1"))
    await registration.stop()

    assert len(up(registry, "users")) == 1


async def test_stopping_without_a_registry_does_not_fail(
    http_server: Served, url: str, pace: Pace, expect_log: ExpectLog
) -> None:
    registration = a_registration_at(url, pace)
    await registration.start()
    http_server.stop_listening()
    await http_server.hang_up()

    with expect_log("could not deregister instance=users-1"):
        await registration.stop()
    await registration.stop()


async def test_nothing_is_left_running_after_the_stop(url: str, pace: Pace) -> None:
    before = asyncio.all_tasks()
    registration = a_registration_at(url, pace)
    await registration.start()
    assert any("registryd" in task.get_name() for task in asyncio.all_tasks() - before)
    await registration.stop()

    assert not [task for task in asyncio.all_tasks() - before if "registryd" in task.get_name()]


async def test_a_bug_in_the_client_does_not_end_the_heartbeats(
    url: str, registry: Registry, pace: Pace, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration = a_registration_at(url, pace)
    await registration.start()

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch, expect_log("heartbeat failed instance=users-1"):
        patch.setattr(registration._heartbeats, "_send", fail)
        await pace.go()
    await pace.go()
    await registration.stop()

    assert registry.tally().renewed == 1


@pytest.mark.parametrize(
    ("environ", "urls"),
    [
        ({}, [DEFAULT_URL]),
        ({"REGISTRY_URL": ""}, [DEFAULT_URL]),
        ({"REGISTRY_URL": "http://a:1"}, ["http://a:1"]),
        ({"REGISTRY_URL": " http://a:1, http://b:2 ,"}, ["http://a:1", "http://b:2"]),
    ],
)
def test_the_registries_come_from_the_environment(environ: dict[str, str], urls: list[str]) -> None:
    assert registry_urls(environ) == urls
    assert DEFAULT_URL == "http://localhost:8006"


async def test_a_registry_url_that_is_none_is_said_and_is_no_crash(pace: Pace, expect_log: ExpectLog) -> None:
    registration = a_registration_at("localhost:8006", pace)
    with expect_log("no answer from the registry at localhost:8006"):
        await registration.start()
        await pace.go()
    await registration.stop()


async def test_what_may_have_come_before_the_loop_was_held_up_is_no_newer_than_that() -> None:
    clock = ManualClock()
    users = Discovery("users", clock=clock.now)
    watch = Watch(users, Registries(), clock.now, asyncio.get_running_loop().create_future())
    headers = HTTPHeaders({"Content-Type": "text/event-stream; charset=utf-8", "Registry-Index": "7"})
    watch.headers_received(ResponseStartLine("HTTP/1.1", 200, "OK"), headers)
    watch.data_received(b'event: snapshot\nid: 7\ndata: {"instances":[]}\n\n')
    watch._looked_up = (1001.0, 1001.5)
    clock.advance(60)  # as where the process is stopped
    watch.data_received(b": still here\n\n")

    assert users.age == 59


@pytest.mark.parametrize("ticks", range(6))
async def test_who_leaves_does_not_wait_for_one_who_joins_meanwhile(url: str, pace: Pace, ticks: int) -> None:
    registries = Registries([url])
    heartbeats = Heartbeats(registries, sleep=pace.sleep, clock=pace.now)
    about = {"service_name": "users", "base_url": "http://10.0.0.5:8000"}
    a, b = (Session(registries, about, random.Random(n)) for n in range(2))
    heartbeats.join(a)
    await pace.go()
    leaving = asyncio.create_task(heartbeats.leave(a))
    for _ in range(ticks):
        await asyncio.sleep(0)
    heartbeats.join(b)
    await asyncio.wait_for(leaving, 5)

    await heartbeats.leave(b)


async def test_why_there_was_no_answer_is_told(expect_log: ExpectLog) -> None:
    users = Discovery("users", registries=Registries(["http://127.0.0.1:1"]))
    with expect_log("no answer from the registry at http://127.0.0.1:1: .*[Cc]onnection refused; keeping what"):
        await users.start()
    await users.stop()
