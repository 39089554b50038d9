"""Restarts that nobody notices, under a thousand requests a second; under the unit: tests/systemd/test_unit.py."""

import json
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from process import DEADLINE, Manager, Process, RunningDaemon

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


def ask_ahead(address: tuple[str, int], deep: int, over: threading.Event) -> None:
    """Registers again and again, always so many requests ahead of the answers, and asks anew what was not answered on
    a connection that was closed with an answer that says so."""
    body = b'{"service_name": "users", "base_url": "http://h", "instance_id": "u%d"}' % threading.get_ident()
    request = b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    while not over.is_set():
        with socket.create_connection(address, timeout=DEADLINE) as sock, sock.makefile("rb") as answers:
            sock.sendall(request * deep)
            closes = False
            while not closes and not over.is_set():
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = answers.readline()
                    assert line or over.is_set(), "a connection closes with an answer that says so"
                    head += line
                    if not line:
                        return
                assert head.startswith(b"HTTP/1.1 200 "), head
                (length,) = re.findall(rb"Content-Length: (\d+)", head)
                answers.read(int(length))
                closes = b"\r\nConnection: close\r\n" in head
                if not closes:
                    sock.sendall(request)


@pytest.mark.parametrize("way", WAYS)
def test_a_stop_ends_although_its_clients_are_always_ahead(
    way: str, listening: socket.socket, manager: Manager, tmp_path: Path
) -> None:
    handed = [("http", listening.fileno())]
    daemon = RunningDaemon(tmp_path, *WAYS[way], "--state-dir", str(tmp_path), handed=handed, manager=manager)
    over = threading.Event()
    with ThreadPoolExecutor(4) as pool, daemon:
        clients = [pool.submit(ask_ahead, listening.getsockname(), 8, over) for _ in range(4)]
        while int(daemon.fetch("/status").headers["Registry-Index"]) < 1 or not daemon.listed():
            assert not any(client.done() for client in clients)
        with daemon.connect() as dribbling:
            dribbling.sendall(b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            dribbling.sendall(b" ")
            daemon.signal(signal.SIGTERM)
            status = daemon.wait()
        over.set()
        again = RunningDaemon(
            tmp_path, *WAYS[way], "--state-dir", str(tmp_path), handed=[*handed, *manager.kept], manager=manager
        )
        with again:
            for client in clients:
                client.result(DEADLINE)
            again.signal(signal.SIGTERM)
            again.wait()
    cut = [line for line in daemon.lines if "cut=" in line]
    assert len(cut) == status, "and nothing else, if it had come before the end began"
    assert all("stopping although requests are under way cut=1" in line for line in cut), "what is half here is cut off"
