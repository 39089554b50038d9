"""The live table: what is drawn after which events, and a real terminal with it."""

import os
import signal
from typing import Any

import pytest
from process import RunningDaemon, StartDaemon
from terminal import CTL, Terminal

from registryd.client.events import Event
from registryd.ctl.statuses import Status
from registryd.ctl.tables import width
from registryd.ctl.top import Top


def instance(instance_id: str, service: str = "users", status: str = "up", **more: Any) -> dict[str, Any]:
    about = {"instance_id": instance_id, "service_name": service, "status": status, "base_url": "http://10.0.0.5:8000"}
    return about | more


def shown(top: Top, columns: int = 100, rows: int = 24) -> list[str]:
    return top.lines(columns, rows, has_colours=False)


def top_with(*instances: dict[str, Any]) -> Top:
    top = Top("http://registry:8006")
    top.take(Event("snapshot", 7, {"instances": list(instances), "count": len(instances)}), "10:00:00")
    return top


def test_services_are_counted_by_status() -> None:
    top = top_with(instance("u1"), instance("u2", status="down"), instance("t1", "timelines", suspect=True))

    assert shown(top) == [
        "http://registry:8006: 3 instances of 2 services, index 7",
        "",
        "SERVICE    UP  ALL  DOWN  SUSPECT",
        "timelines  1   1          1",
        "users      1   2    1",
    ]


def test_changes_are_counted_and_the_latest_are_shown() -> None:
    top = top_with(instance("u1"))
    top.take(Event("registered", 8, instance("u2")), "10:00:01")
    top.take(Event("updated", 9, instance("u1", status="draining", override={"reason": "deploy"})), "10:00:02")
    top.take(Event("expired", 10, instance("u2")), "10:00:03")
    lines = shown(top, rows=12)

    assert lines[0] == "http://registry:8006: 1 instances of 1 services, index 10"
    assert lines[2:4] == ["SERVICE  UP  ALL  DRAINING  LAST CHANGE", "users    0   1    1         10:00:03"]
    assert lines[-3:] == [
        "10:00:01 registered   users u2 http://10.0.0.5:8000 up",
        "10:00:02 updated      users u1 http://10.0.0.5:8000 draining (deploy)",
        "10:00:03 expired      users u2 http://10.0.0.5:8000 up",
    ]
    assert len(lines) == 12


def test_a_service_that_has_lost_its_last_instance_is_still_seen() -> None:
    top = top_with(instance("u1"))
    top.take(Event("expired", 8, instance("u1")), "10:00:01")

    assert "users    0   0    10:00:01" in shown(top)


def test_what_was_is_shown_as_such_when_the_registry_is_lost() -> None:
    top = top_with(instance("u1"))
    top.lost("no answer\x1b[2J")
    assert shown(top)[1] == r"LOST THE REGISTRY, this is how it was: no answer\x1b[2J"
    assert "users    1   1" in shown(top)

    top.found("http://other:8006")
    assert shown(top)[:2] == ["http://other:8006: 1 instances of 1 services, index 7", ""]


def test_it_is_scrolled_and_no_further_than_there_is_something() -> None:
    top = top_with(*(instance(f"i{n}", f"service{n:02}") for n in range(30)))
    assert [line.split()[0] for line in shown(top, rows=8)[3:]] == [f"service{n:02}" for n in range(5)]
    for key in ("down", "page down", "up", "nothing"):
        top.press(key)
    assert shown(top, rows=8)[3].split()[0] == "service10"

    for _ in range(10):
        top.press("page down")
    assert shown(top, rows=8)[-1].split()[0] == "service29"
    for _ in range(10):
        top.press("page up")
    assert shown(top, rows=8)[3].split()[0] == "service00"


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (10, 3), (40, 5), (80, 24), (200, 60)])
def test_it_fits_whatever_the_terminal_is(columns: int, rows: int) -> None:
    top = top_with(*(instance(f"i{n}", f"service{n:02}") for n in range(30)))
    for n in range(30):
        top.take(Event("updated", 8 + n, instance(f"i{n}", f"service{n:02}", status="down")), "10:00:01")
    lines = shown(top, columns, rows)

    assert len(lines) <= rows
    if columns >= 40:
        assert max(map(width, lines)) <= columns


@pytest.mark.e2e
def test_it_lives_in_a_terminal_until_q(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.register("users", instance_id="users-1")
    with Terminal([*CTL, "top"], {"REGISTRY_URL": daemon.url}, columns=80, rows=10) as terminal:
        terminal.wait_for(r"\x1b\[\?1049h")
        terminal.wait_for(r"1 instances of 1 services")
        daemon.register("timelines", metadata={"evil": "\x1b[2J"})
        terminal.wait_for(r"timelines .*1.* 1 ")
        terminal.resize(30, 5)
        terminal.wait_for(r"\x1b\[H.{30}\x1b\[K")
        daemon.signal(signal.SIGTERM)
        daemon.wait()
        terminal.wait_for("LOST THE REGISTRY")
        terminal.type("jq")
        assert terminal.wait() == Status.DONE
        assert terminal.output.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")


@pytest.mark.e2e
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, Status.INTERRUPTED), (signal.SIGTERM, Status.DONE)])
def test_the_terminal_is_as_it_was_however_it_ends(
    registry_daemon: RunningDaemon, number: signal.Signals, status: Status
) -> None:
    with Terminal([*CTL, "top", "nobody"], {"REGISTRY_URL": registry_daemon.url}) as terminal:
        terminal.wait_for("0 instances of 0 services")
        terminal.signal(number)
        assert terminal.wait() == status
        assert terminal.output.endswith("\x1b[?1049l")


@pytest.mark.e2e
def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(registry_daemon: RunningDaemon) -> None:
    with Terminal([*CTL, "top", "nobody"], {"REGISTRY_URL": registry_daemon.url}) as terminal:
        terminal.wait_for("0 instances of 0 services")
        terminal.signal(signal.SIGTSTP)
        terminal.wait_for(r"\x1b\[\?1049l")
        os.waitid(os.P_PID, terminal.pid, os.WSTOPPED)
        terminal.signal(signal.SIGCONT)
        terminal.wait_for(r"\x1b\[\?1049h")
        terminal.wait_for("0 instances of 0 services")
        terminal.type("q")
        assert terminal.wait() == Status.DONE


@pytest.mark.e2e
def test_without_a_registry_it_ends_with_a_line() -> None:
    with Terminal([*CTL, "top"], {"REGISTRY_URL": "http://127.0.0.1:1"}) as terminal:
        assert terminal.wait() == Status.NO_REGISTRY
        assert terminal.output.count("no answer from the registry at http://127.0.0.1:1: ") == 1
