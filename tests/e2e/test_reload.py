"""Settings that change while it runs: by a signal, and by a command whose exit status tells how that went."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from process import Process, RunningDaemon, StartDaemon

pytestmark = pytest.mark.e2e


class Configured:
    """A daemon and its settings file."""

    def __init__(self, start_daemon: StartDaemon, path: Path, text: str = "") -> None:
        self.path = path
        self.path.write_text(text)
        self.daemon: RunningDaemon = start_daemon("--settings", str(path))

    def reload(self, text: str, pid: int | None = None) -> tuple[int, list[str]]:
        """Exit status and output of a reload after the file has been changed."""
        self.path.write_text(text)
        return reload(pid or self.daemon.popen.pid)


def reload(pid: object) -> tuple[int, list[str]]:
    with Process([sys.executable, "-m", "registryd", "--reload", str(pid)]) as process:
        return process.wait(), process.lines


@pytest.fixture
def configured(start_daemon: StartDaemon, tmp_path: Path) -> Configured:
    return Configured(start_daemon, tmp_path / "settings")


def test_what_can_change_is_in_force_when_the_command_returns(configured: Configured) -> None:
    daemon = configured.daemon
    daemon.register(instance_id="before")
    status, lines = configured.reload(
        "HEARTBEAT_TIMEOUT=7.5\nCLEANUP_INTERVAL='0.5'\nREGISTRYD_MAX_TAGS=1\nREGISTRYD_MAX_INSTANCES=2\n"
        "REGISTRYD_MAX_BODY_BYTES=200\nREGISTRYD_LOG_LEVEL=warning\n"
    )

    assert status == 0
    assert "\n".join(lines) == (
        "reloaded: --heartbeat-timeout from 30 to 7.5, --cleanup-interval from 10 to 0.5, --log-level from info to "
        "warning, --max-body-bytes from 262144 to 200, --max-tags from 64 to 1, --max-instances from 2000000 to 2"
    )
    seen = daemon.fetch("/status").json
    assert (seen["heartbeat_timeout"], seen["cleanup_interval"]) == (7.5, 0.5)
    assert daemon.register(instance_id="after")["ttl"] == 7.5
    assert daemon.fetch("/instances/before").json["ttl"] == 30, "who is there keeps the lease that was agreed on"
    one = {"service_name": "users", "base_url": "http://h"}
    assert daemon.fetch("/register", "POST", one | {"tags": ["a", "b"]}).json["field"] == "tags"
    assert daemon.fetch("/register", "POST", one).status == 429, "it is full"
    assert daemon.fetch("/register", "POST", b"x" * 201).status == 413
    assert '"maxItems":1' in daemon.fetch("/openapi.json").body.decode()
    assert not [line for line in daemon.events if "registered" in line and "instance=after" in line]


def test_what_has_not_changed_is_said_too(configured: Configured) -> None:
    assert configured.reload("# nothing\n") == (0, ["reloaded: no setting has changed"])
    configured.daemon.manager.wait_for("READY=1", 2)
    heard = configured.daemon.manager.heard
    assert [state for state in heard if state in ("READY=1", "RELOADING=1")] == ["READY=1", "RELOADING=1", "READY=1"]
    assert any(state.startswith("MONOTONIC_USEC=") for state in heard)


def test_who_watches_goes_on(configured: Configured) -> None:
    with configured.daemon.connect() as watching, watching.makefile("rb") as stream:
        watching.sendall(b"GET /watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"snapshot" not in stream.readline():
            pass
        assert configured.reload("HEARTBEAT_TIMEOUT=20\n")[0] == 0
        configured.daemon.register()
        while (line := stream.readline()) and b"event: " not in line:
            pass
        assert line.startswith(b"event: registered")


def test_a_share_that_makes_suspects_is_in_force_from_then_on(configured: Configured) -> None:
    daemon = configured.daemon
    assert "suspects" not in daemon.fetch("/status").json
    changed = "reloaded: --suspect-share from 0 to 0.5"
    assert configured.reload("REGISTRYD_SUSPECT_SHARE=0.5\n") == (0, [changed])
    assert daemon.fetch("/status").json["suspects"] == {"share": 0.5, "instances": 0, "services": {}}
    with daemon.connect() as watching, watching.makefile("rb") as stream:
        watching.sendall(b"GET /watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"snapshot" not in stream.readline():
            pass
        for n in range(12):
            daemon.register(instance_id=f"u{n}", ttl=2)
        while (line := stream.readline()) and b'"suspect":true' not in line:
            pass
        assert b"instance_id" in line
        status = daemon.fetch("/status").json
        assert (status["status"], status["reasons"]) == ("degraded", ["suspects"])
    daemon.wait_for_line("INFO updated service=users .*reason=.suspect: 1. of 1. leases of ")


def test_what_needs_a_restart_is_named_until_it_has_had_one(configured: Configured) -> None:
    for _ in range(2):
        status, lines = configured.reload("REGISTRYD_HOST=::1\nHEARTBEAT_TIMEOUT=20\n")
        assert status == 1, "not all that was asked for is in force"
        named = "--host from 127.0.0.1 to ::1 needs a restart: systemctl restart registryd"
        assert lines[-1] == f"registryd: {named}"
    configured.daemon.wait_for_line(f"WARNING {named}")

    assert configured.daemon.fetch("/status").json["heartbeat_timeout"] == 20, "the rest is"
    assert configured.reload("HEARTBEAT_TIMEOUT=20\n") == (0, ["reloaded: no setting has changed"])


def test_a_bad_file_changes_nothing(configured: Configured) -> None:
    assert configured.reload("HEARTBEAT_TIMEOUT=20\n")[0] == 0
    status, lines = configured.reload("HEARTBEAT_TIMEOUT=40\nCLEANUP_INTERVAL=never\n")

    assert status == 1
    (line,) = lines
    assert line == (
        f"registryd: reload refused, nothing has changed: {configured.path} line 2: CLEANUP_INTERVAL: 'never' cannot "
        "be used; give a number of seconds from 0.1 to 3600"
    )
    assert configured.daemon.fetch("/status").json["heartbeat_timeout"] == 20
    configured.daemon.wait_for_line("ERROR reload refused, nothing has changed: .* line 2: CLEANUP_INTERVAL: 'never'")


def test_a_hangup_does_the_same_without_an_answer(configured: Configured) -> None:
    configured.path.write_text("HEARTBEAT_TIMEOUT=20\n")
    configured.daemon.signal(signal.SIGHUP)
    configured.daemon.wait_for_line("INFO reloaded: --heartbeat-timeout from 30 to 20")

    assert configured.daemon.fetch("/status").json["heartbeat_timeout"] == 20


def test_flags_and_the_environment_go_on_beating_the_file(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("HEARTBEAT_TIMEOUT=20\nCLEANUP_INTERVAL=20\nREGISTRYD_DRAIN_TIMEOUT=20\n")
    daemon = start_daemon(
        "--cleanup-interval", "5", environ={"REGISTRYD_SETTINGS": str(path), "HEARTBEAT_TIMEOUT": "40"}
    )
    assert reload(daemon.popen.pid) == (0, ["reloaded: no setting has changed"])

    status = daemon.fetch("/status").json
    assert (status["heartbeat_timeout"], status["cleanup_interval"]) == (40, 5)


def test_a_process_that_is_no_registryd_is_said_in_a_line() -> None:
    status, (line,) = reload(os.getpid())

    assert status == 1
    assert line.startswith(f"registryd: process {os.getpid()} is no registryd that can be asked from here")
    assert reload("x") == (2, ["registryd: --reload: 'x' cannot be used; give the process id of a running registryd"])


def test_who_has_taken_the_name_is_not_believed(start_daemon: StartDaemon) -> None:
    ours = f"\0registryd-{os.getppid()}-control"
    with socket.socket(socket.AF_UNIX) as liar:
        liar.bind(ours)
        liar.listen()
        assert reload(os.getppid())[0] == 1
