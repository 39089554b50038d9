"""sd_notify and the watchdog, against a socket of the test's own."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ExpectLog
from support import TimeTravel, travel

from registryd import systemd
from registryd.systemd import Handed, Notifier, StatusLine, Watchdog, handed_over, watchdog_seconds


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


def test_the_status_is_told_when_it_has_changed(manager: socket.socket) -> None:
    async def story(loop: TimeTravel) -> None:
        text = "one"
        status = StatusLine(Notifier(manager.getsockname()), lambda: text)
        status.start("READY=1")
        assert heard(manager) == ["READY=1\nSTATUS=one"]
        await asyncio.sleep(60)
        assert heard(manager) == []

        text = "two"
        await asyncio.sleep(60)
        assert heard(manager) == ["STATUS=two"]
        status.start("READY=1")
        assert heard(manager) == ["READY=1\nSTATUS=two"], "it is told with a state even so"
        status.stop()
        text = "three"
        await asyncio.sleep(60)
        assert heard(manager) == []

    travel(story)


def test_many_descriptors_are_stored_under_a_name(manager: socket.socket) -> None:
    manager.setblocking(True)
    with socket.socket() as one:
        count = systemd.MOST_AT_ONCE + 1
        assert Notifier(manager.getsockname()).store("connection", [one.fileno()] * count) == count
    for expected in (systemd.MOST_AT_ONCE, 1):
        data, descriptors, _, _ = socket.recv_fds(manager, 4096, 253)
        assert data == b"FDSTORE=1\nFDNAME=connection"
        assert len(descriptors) == expected
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_manager_that_takes_nothing_does_not_hold_us_up(
    manager: socket.socket, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "SEND_SECONDS", 0.01)
    notifier = Notifier(manager.getsockname())
    with expect_log("cannot notify the service manager at .*: timed out"):
        sent = notifier.store("connection", [0] * 1_000_000)

    assert 0 < sent < 1_000_000
    assert sent % systemd.MOST_AT_ONCE == 0


def test_without_a_manager_nothing_is_stored() -> None:
    assert Notifier(None).store("connection", [0]) == 0
    Notifier(None).wait_until_heard()


def test_it_waits_until_the_manager_has_heard(manager: socket.socket) -> None:
    def hear() -> None:
        data, descriptors, _, _ = socket.recv_fds(manager, 4096, 253)
        assert data == b"BARRIER=1"
        for descriptor in descriptors:
            os.close(descriptor)

    manager.settimeout(20)
    listener = threading.Thread(target=hear)
    listener.start()
    Notifier(manager.getsockname()).wait_until_heard()
    listener.join()


def test_a_manager_that_never_says_so_is_not_waited_for_for_ever(
    manager: socket.socket, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "BARRIER_SECONDS", 0.01)
    with expect_log("does not say that it has taken in"):
        Notifier(manager.getsockname()).wait_until_heard()
