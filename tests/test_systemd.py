"""sd_notify and the watchdog, against a socket of the test's own."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ExpectLog
from support import TimeTravel, travel

from registryd.systemd import Handed, Notifier, Watchdog, handed_over, watchdog_seconds


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def heard(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_states_go_out_in_one_datagram(manager: socket.socket) -> None:
    Notifier.from_environment({"NOTIFY_SOCKET": manager.getsockname()}).notify("READY=1", "STATUS=Serving")

    assert heard(manager) == ["READY=1\nSTATUS=Serving"]


def test_an_abstract_address_is_written_with_an_at_sign() -> None:
    name = f"registryd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.setblocking(False)
        Notifier(f"@{name}").notify("READY=1")

        assert heard(sock) == ["READY=1"]


def test_without_a_manager_nothing_happens() -> None:
    Notifier.from_environment({}).notify("READY=1")
    Notifier.from_environment({"NOTIFY_SOCKET": ""}).notify("READY=1")


def test_a_manager_that_is_gone_is_logged_and_no_more(tmp_path: Path, expect_log: ExpectLog) -> None:
    with expect_log("cannot notify the service manager"):
        Notifier(str(tmp_path / "nobody")).notify("READY=1")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdogs_period_is_read_as_systemd_writes_it(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(environ, pid=7) == seconds


def test_the_watchdog_is_fed_three_times_per_period(manager: socket.socket) -> None:
    async def story(loop: TimeTravel) -> None:
        watchdog = Watchdog(Notifier(manager.getsockname()), 30.0, lambda: True)
        watchdog.start()
        await asyncio.sleep(95)
        watchdog.stop()

        assert heard(manager) == ["WATCHDOG=1"] * 9
        await asyncio.sleep(95)
        assert heard(manager) == []

    travel(story)


def test_the_watchdog_starves_while_the_sweep_is_dead(manager: socket.socket, expect_log: ExpectLog) -> None:
    alive = True

    async def story(loop: TimeTravel) -> None:
        nonlocal alive
        watchdog = Watchdog(Notifier(manager.getsockname()), 30.0, lambda: alive)
        watchdog.start()
        await asyncio.sleep(15)
        assert heard(manager) == ["WATCHDOG=1"]

        alive = False
        with expect_log("the sweep has stopped"):
            await asyncio.sleep(30)
        assert heard(manager) == []
        watchdog.stop()

    travel(story)


def test_without_a_watchdog_nothing_is_fed(manager: socket.socket) -> None:
    async def story(loop: TimeTravel) -> None:
        watchdog = Watchdog(Notifier(manager.getsockname()), None, lambda: True)
        watchdog.start()
        await asyncio.sleep(100)
        watchdog.stop()

        assert heard(manager) == []

    travel(story)


@pytest.mark.parametrize(
    ("environ", "handed"),
    [
        ({}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:x"}, [Handed("http", 3), Handed("x", 4)]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http:x"}, [Handed("http", 3)]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "http"}, [Handed("http", 3), Handed("unknown", 4)]),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, []),
        ({"LISTEN_PID": "7"}, []),
    ],
)
def test_what_is_handed_over_is_read_as_systemd_writes_it(environ: dict[str, str], handed: list[Handed]) -> None:
    assert handed_over(environ, pid=7) == handed
