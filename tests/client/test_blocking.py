"""What the blocking shell has of its own: see test_shells.py for what both must do."""

import atexit
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from conftest import ExpectLog
from scripted import Scripted, StartScripted, answered

from registryd.client.blocking import Discovery, _current, deregister_service, register_service, registered
from registryd.client.registries import Registries


@pytest.fixture
def registry(start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    registry = start_scripted(lambda asked: answered({"ttl": 30.0, "generation": 1}))
    monkeypatch.setenv("REGISTRY_URL", registry.url)
    return registry


def asked(registry: Scripted) -> list[str]:
    return [f"{one.method} {one.path.split('/')[1]}" for one in registry.asked]


def test_the_names_of_the_asyncio_shell_are_here_too(registry: Scripted) -> None:
    register_service("users", "http://h:1")
    register_service("timelines", "http://h:2", instance_id="timelines-1", tags=("a",))
    assert len(_current) == 2
    deregister_service()
    deregister_service()

    assert asked(registry) == ["POST register"] * 2 + ["DELETE deregister"] * 2
    assert not _current
    atexit.unregister(deregister_service)


def test_a_program_that_ends_is_taken_off_the_list(registry: Scripted) -> None:
    program = "from registryd.client.blocking import register_service; register_service('users', 'http://h:1')"
    subprocess.run([sys.executable, "-c", program], check=True)

    assert asked(registry) == ["POST register", "DELETE deregister"]


def test_a_child_that_ends_takes_nothing_off_the_list(registry: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    registration = register_service("users", "http://h:1")
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: 1)
        registration.stop()
    assert asked(registry) == ["POST register"]
    deregister_service()
    assert asked(registry) == ["POST register", "DELETE deregister"]


@pytest.mark.parametrize("begin", [register_service, lambda *to: registered(*to).__enter__()], ids=["call", "block"])
def test_an_exit_while_it_registers_leaves_nothing_behind(
    registry: Scripted, monkeypatch: pytest.MonkeyPatch, begin: Callable[[str, str], object]
) -> None:
    def exit_now(*_: object) -> None:
        raise SystemExit  # as a signal's handler does, wherever the program is

    monkeypatch.setattr("registryd.client.blocking.Heartbeats.join", exit_now)
    with pytest.raises(SystemExit):
        begin("users", "http://h:1")
    assert asked(registry) == ["POST register", "DELETE deregister"]
    assert not _current


def test_no_thread_is_left_after_the_end(registry: Scripted) -> None:
    before = set(threading.enumerate())
    with registered("users", "http://h:1"):
        (beating,) = (thread for thread in set(threading.enumerate()) - before if "heartbeats" in thread.name)
    beating.join(5)
    assert not beating.is_alive()


def test_a_discovery_may_be_started_again(start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b'event: snapshot\nid: 7\ndata: {"instances":[]}\n\n'
    registry = start_scripted(lambda asked: (200, "text/event-stream", [said]))
    monkeypatch.setenv("REGISTRY_URL", registry.url)
    users = Discovery("users")
    for _ in range(2):
        with users:
            assert users.is_open
        assert not users.is_open
    assert len(registry.asked) == 2


def test_a_discovery_that_is_interrupted_at_its_start_watches_no_more(
    monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    users = Discovery("users", registries=Registries(["http://127.0.0.1:1"]))

    tried = users._tried.wait

    def interrupted() -> None:
        tried()
        raise SystemExit

    monkeypatch.setattr(users._tried, "wait", interrupted)
    with expect_log("no answer from the registry at http://127.0.0.1:1"), pytest.raises(SystemExit):
        users.start()

    assert "registryd discovery users" not in [thread.name for thread in threading.enumerate()]
