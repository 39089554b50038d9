"""Restarts that nobody notices, under a thousand requests a second; under the unit: tests/systemd/test_unit.py."""

import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process import Manager, Process, RunningDaemon

from registryd.listeners import listen

pytestmark = pytest.mark.e2e

TRAFFIC = Path(__file__).parents[1] / "bench/traffic.py"
RESTARTS = 3
#: How connections get over a restart, and the flags for it.
WAYS = {
    "kept by the service manager": ("--http", "front", "--keep-connections", "1000"),
    "seen off": ("--http", "front"),
    "seen off by Tornado's server": ("--http", "tornado"),
}


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """As the service manager's: open all the time."""
    (sock,) = listen("127.0.0.1", 0)
    with sock:
        yield sock


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def heartbeats(daemon: RunningDaemon) -> int:
    """How many there have been in the daemon's life."""
    renewed = daemon.fetch("/status").json["leases"]["renewed"]
    assert isinstance(renewed, int)
    return renewed


def wait_until_it_flows(daemon: RunningDaemon, traffic: Process) -> None:
    while heartbeats(daemon) < 100:
        assert traffic.popen.poll() is None, traffic.output


def end(traffic: Process) -> Any:
    """What it says in the end."""
    traffic.signal(signal.SIGTERM)
    status = traffic.wait()
    assert status == 0, traffic.output
    return json.loads(traffic.lines[-1])


@pytest.mark.parametrize("way", WAYS)
def test_a_restart_is_noticed_by_nobody(way: str, listening: socket.socket, manager: Manager, tmp_path: Path) -> None:
    flags = (*WAYS[way], "--state-dir", str(tmp_path))

    def start() -> RunningDaemon:
        handed = [("http", listening.fileno()), *manager.kept]
        return RunningDaemon(tmp_path, *flags, handed=handed, manager=manager)

    daemon = start()
    with Process([sys.executable, str(TRAFFIC), daemon.url]) as traffic:
        wait_until_it_flows(daemon, traffic)
        for _ in range(RESTARTS):
            with daemon:
                daemon.signal(signal.SIGTERM)
                assert daemon.wait() == 0, daemon.output
            daemon = start()
            wait_until_it_flows(daemon, traffic)
        said = end(traffic)
    with daemon:
        daemon.signal(signal.SIGTERM)
        daemon.wait()

    assert said["failures"] == 0, json.dumps(said, indent=1)
    assert said["streams"] > RESTARTS, "who watches goes on after each"
    assert said["answers"]["connections"] == said["keeping"] * (1 if "kept" in way else RESTARTS + 1)
