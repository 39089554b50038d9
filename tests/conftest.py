"""Fixtures for all tests, and the promise that every test keeps: nothing unexpected in the log."""

import asyncio
import json
import logging
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest
import uvloop
from hypothesis import settings
from raw import Served
from shells import Asyncio, Blocking, Shell
from support import FIRST_INDEX, ManualClock, RecordingStore, new_state, replay
from tornado.httpclient import HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.ioloop import IOLoop

from registryd.api.context import Context, Daemon, UnderWay
from registryd.api.hosts import Hosts
from registryd.api.reader import Reader
from registryd.api.watch import Broadcast
from registryd.auth import Access
from registryd.core.limits import Limits
from registryd.core.model import Instance
from registryd.core.state import State
from registryd.feed import Feed
from registryd.overload import Overload
from registryd.registry import Registry
from registryd.server import make_application, make_http_server

settings.register_profile("registryd", derandomize=True, deadline=None)
settings.load_profile("registryd")

# Under nohup, or in the background of a shell, these are ignored, and whatever a test starts would ignore them as well.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

# Otherwise the first IOLoop that is made current has asyncio make a loop to go back to, which nobody ever closes.
asyncio.set_event_loop(None)

ExpectLog = Callable[[str], AbstractContextManager[None]]


@pytest.fixture
def expect_log(caplog: pytest.LogCaptureFixture) -> ExpectLog:
    """`with expect_log(regex):` claims the warnings and errors that match, and fails where there is none."""

    @contextmanager
    def claim(regex: str) -> Iterator[None]:
        before = len(caplog.records)
        yield
        found = [
            r for r in caplog.records[before:] if r.levelno >= logging.WARNING and re.search(regex, r.getMessage())
        ]
        assert found, f"no warning or error in the log matches {regex!r}"
        for record in found:
            record.claimed = True

    return claim


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that boot a system come first: they take the longest, and the others fill the gaps."""
    items.sort(key=lambda item: item.get_closest_marker("systemd") is None)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fails a test that logs a warning or an error which it has not claimed by `expect_log`."""
    caplog.set_level(logging.INFO)
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    unclaimed = [r for r in records if r.levelno >= logging.WARNING and not getattr(r, "claimed", False)]
    assert [f"{r.name}: {r.getMessage()}" for r in unclaimed] == []


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def state() -> Iterator[State]:
    state = new_state()
    yield state
    state.check()


@pytest.fixture
def store() -> RecordingStore:
    return RecordingStore()


@pytest.fixture
def feed(limits: Limits) -> Feed:
    return Feed(FIRST_INDEX, most_watchers=limits.watchers)


@pytest.fixture
def registry(
    io_loop: IOLoop, clock: ManualClock, store: RecordingStore, feed: Feed, limits: Limits
) -> Iterator[Registry]:
    state = new_state(limits)
    registry = Registry(state, store, feed, clock, random.Random(7))
    yield registry
    state.check()
    feed.check()
    assert not registry._lock.locked(), "the lock is free"
    assert instances_of(replay(store.changes)) == instances_of(state), "what the store has kept is what is there"


def instances_of(state: State) -> dict[str, Instance]:
    return {lease.instance.instance_id: lease.instance for lease in state._leases}


@pytest.fixture
def daemon_view() -> Daemon:
    return Daemon(
        version="0.1.0",
        started_wall=1_705_314_600,
        heartbeat_timeout=30.0,
        cleanup_interval=10.0,
        store_kind="recording",
        uptime=lambda: 12.5,
        stalls=lambda: (0, 0.0),
        connections_refused=int,
        reasons=list,
        unready=list,
    )


@pytest.fixture
def under_way(io_loop: IOLoop) -> UnderWay:
    return UnderWay()


@pytest.fixture
def broadcast(registry: Registry) -> Broadcast:
    return Broadcast(registry)


@pytest.fixture
def io_loop(request: pytest.FixtureRequest) -> Iterator[IOLoop]:
    """In place of pytest-tornasync's: of the kind on which the server under test runs."""
    kind = request.getfixturevalue("http_kind") if "http_kind" in request.fixturenames else ""
    with pytest.MonkeyPatch.context() as patch:
        if kind == "front on uvloop":
            patch.setattr("asyncio.new_event_loop", uvloop.new_event_loop)
        loop = IOLoop()
    loop.make_current()
    yield loop
    loop.clear_current()
    loop.close(all_fds=True)


@pytest.fixture
def access() -> Access:
    """Lets everyone do everything, until it `take`s something else."""
    return Access()


@pytest.fixture
def hosts() -> Hosts:
    """Knows the name by which raw requests ask."""
    return Hosts(["h"])


@pytest.fixture
def overload(limits: Limits) -> Overload:
    return Overload(limits)


@pytest.fixture
def http_kind() -> str:
    """Which server is under test; those in tests/api/ are tested with all of them."""
    return "front on uvloop"


@pytest.fixture
def http_server(
    io_loop: IOLoop,
    http_server_port: Any,
    http_kind: str,
    registry: Registry,
    broadcast: Broadcast,
    daemon_view: Daemon,
    under_way: UnderWay,
    limits: Limits,
    access: Access,
    hosts: Hosts,
    overload: Overload,
) -> Iterator[Served]:
    """In place of pytest-tornasync's."""

    async def start() -> Served:
        context = Context(registry, Reader(limits), daemon_view, under_way, access, hosts, overload)
        application = make_application(context, broadcast)
        http = make_http_server(http_kind.split()[0], application, context)
        return Served(http, application, http_server_port[0])

    served: Served = io_loop.run_sync(start)
    yield served
    served.stop_listening()
    io_loop.run_sync(served.hang_up, timeout=10)


class Answer(NamedTuple):
    status: int
    headers: HTTPHeaders
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """Speaks HTTP with the server under test; any status is an answer."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        response: HTTPResponse = await self._client.fetch(
            path,
            method=method,
            body=raw,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
            raise_error=False,
            allow_nonstandard_methods=True,
        )
        return Answer(response.code, response.headers, response.body)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self("GET", path, **headers)

    async def post(self, path: str, body: object = b"", **headers: str) -> Answer:
        return await self("POST", path, body, **headers)

    async def delete(self, path: str) -> Answer:
        return await self("DELETE", path)

    async def register(self, service_name: str = "users", **more: object) -> Any:
        answer = await self.post("/register", {"service_name": service_name, "base_url": "http://10.0.0.5:8000"} | more)
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture
def api(http_server_client: Any) -> Api:
    return Api(http_server_client)


@pytest.fixture(params=["asyncio", "blocking"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Each of the two shells of the client."""
    if request.param == "blocking":
        yield Blocking()
        return
    with Asyncio() as shell:
        yield shell


PROBLEM_MEMBERS = ["type", "title", "status", "detail", "code"]


def refused(answer: Answer, status: int, code: str, field: str | None = None) -> str:
    """Asserts that an answer is this problem in the one shape that all have; gives back its sentence."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert list(answer.json) == PROBLEM_MEMBERS + (["field"] if field is not None else [])
    assert answer.json["type"] == "about:blank"
    assert answer.json["status"] == status
    assert answer.json["code"] == code
    assert answer.json.get("field") == field
    detail: str = answer.json["detail"]
    return detail
