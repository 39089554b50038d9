"""Which HTTP server and which loop the daemon takes, with and without the extra `speed`."""

import asyncio
import inspect
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest
import uvloop
from support import a_registration

from registryd.api.context import REASONS
from registryd.registry import Registry
from registryd.server import NotInstalled, Pulse, Server, choose_http, loop_factory
from registryd.store.sqlite import SqliteStore


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(
        "registryd.server.find_spec", lambda name: None if name in names else ModuleSpec(name, loader=None)
    )


@pytest.mark.parametrize(("asked", "taken"), [("auto", "front"), ("front", "front"), ("tornado", "tornado")])
def test_with_the_extra_it_is_the_front_unless_tornado_is_asked_for(asked: str, taken: str) -> None:
    assert choose_http(asked) == taken


def test_without_the_extra_it_is_tornado_and_the_front_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "httptools", "uvloop")

    assert choose_http("auto") == choose_http("tornado") == "tornado"
    with pytest.raises(NotInstalled, match=r"--http front needs httptools: .*registryd\[speed\]"):
        choose_http("front")


def test_uvloop_comes_with_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loop_factory("front") is uvloop.new_event_loop
    assert loop_factory("tornado") is None
    without(monkeypatch, "uvloop")
    assert loop_factory("front") is None


def test_the_loop_is_the_one_that_was_asked_for() -> None:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    with asyncio.Runner(loop_factory=loop_factory("front")) as runner:
        assert runner.run(kind()) == "uvloop"


async def test_the_pulse_counts_what_there_is_and_how_fast_heartbeats_come(registry: Registry) -> None:
    moment = 0.0
    pulse = Pulse(registry, lambda: moment)
    assert str(pulse) == "0 instances of 0 services, 0 watchers, 0 heartbeats/s"
    await registry.register(a_registration(instance_id="i1"))
    for _ in range(200):
        registry.renew("i1")
    moment = 5.0
    assert str(pulse) == "1 instance of 1 service, 0 watchers, 40 heartbeats/s"
    moment = 5.1
    assert str(pulse).endswith(" 40 heartbeats/s"), "too soon to tell anything new"
    moment = 10.1
    with registry.feed.seat():
        assert str(pulse) == "1 instance of 1 service, 1 watcher, 0 heartbeats/s"


def test_a_start_does_not_wait_for_what_only_the_metrics_need() -> None:
    program = "import sys, registryd.cli, registryd.front.server; print('prometheus_client' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ran.stdout == "False\n"


def test_what_can_need_a_human_is_known_to_the_metrics() -> None:
    source = inspect.getsource(Server._reasons) + inspect.getsource(vars(SqliteStore)["trouble"].fget)
    reasons = set(re.findall(r'"(\w+)"', source))

    assert reasons == set(REASONS)
