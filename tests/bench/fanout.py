"""How soon all watchers hear of a change, and what a watcher costs: `python tests/bench/fanout.py --watchers 10000`

Starts a daemon, connects the watchers, and registers instances one by one. Prints, over the rounds, the time from
the request until the last watcher has its event, and the daemon's memory per watcher. Beside it stands what the same
machine takes, in the same run, to write the same bytes to as many sockets in a bare loop: the limit.
"""

import argparse
import http.client
import json
import os
import re
import resource
import select
import socket
import statistics
import subprocess
import sys
import threading
import time

ROUNDS = 15
#: One core for the daemon, another for those who read (the same, where there is only one).
DAEMONS_CORE, READERS_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))


def on_the_daemons_core() -> None:
    os.sched_setaffinity(0, {DAEMONS_CORE})


def rss(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        match = re.search(r"VmRSS:\s+(\d+) kB", status.read())
    assert match is not None
    return int(match[1]) * 1024


def register(client: http.client.HTTPConnection, service_name: str, instance_id: str) -> None:
    body = {"service_name": service_name, "base_url": "http://10.0.0.5:8000", "instance_id": instance_id, "ttl": 86400}
    client.request("POST", "/register", json.dumps(body))
    client.getresponse().read()


class Watchers:
    """Connections on which every byte is read as it comes."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        self._told: set[int] = set()

    def add(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socks[sock.fileno()] = sock
        self._poll.register(sock, select.EPOLLIN)

    def wait_until_all_have(self, end: bytes, seconds: float = 60) -> float:
        """The moment at which the last one has read something that ends like this."""
        self._told.clear()
        deadline = time.perf_counter() + seconds
        while len(self._told) < len(self._socks):
            assert time.perf_counter() < deadline, f"{len(self._told)} of {len(self._socks)} have it"
            for number, _ in self._poll.poll(1, 4096):
                data = self._socks[number].recv(65536)
                assert data, "nobody is cut off"
                if data.endswith(end):
                    self._told.add(number)
        return time.perf_counter()


def measure_daemon(count: int, instances: int) -> tuple[list[float], float]:
    """Milliseconds for each round, and bytes per watcher."""
    room = ["--max-watchers", str(count), "--max-connections-per-address", str(count + 10)]
    command = [sys.executable, "-m", "registryd", "--port", "0", *room]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=on_the_daemons_core)
    try:
        assert daemon.stderr is not None
        match = re.search(r"http://127\.0\.0\.1:(\d+)", daemon.stderr.readline())
        assert match is not None
        port = int(match[1])
        threading.Thread(target=daemon.stderr.read, daemon=True).start()
        client = http.client.HTTPConnection("127.0.0.1", port)
        for n in range(instances):
            register(client, "others", f"other-{n}")
        before, watchers = rss(daemon.pid), Watchers()
        for n in range(count):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(b"GET /watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
            watchers.add(sock)
            if n % 500 == 499:
                print(f"\r{n + 1} watchers", end="", file=sys.stderr, flush=True)
        watchers.wait_until_all_have(b"\n\n\r\n")
        each = (rss(daemon.pid) - before) / count
        rounds = []
        for n in range(ROUNDS):
            begun = time.perf_counter()
            register(client, "users", str(n))
            rounds.append((watchers.wait_until_all_have(b"\n\n\r\n") - begun) * 1000)
        return rounds, each
    finally:
        daemon.terminate()
        daemon.wait()


def measure_limit(count: int) -> list[float]:
    """Milliseconds for each round in which a process does nothing but send to as many sockets."""
    script = (
        "import socket, sys\n"
        "listener = socket.create_server(('127.0.0.1', 0), backlog=4096)\n"
        "print(listener.getsockname()[1], flush=True)\n"
        f"socks = [listener.accept()[0] for _ in range({count})]\n"
        "data = b'x' * 400 + b'\\n\\n\\r\\n'\n"
        "for line in sys.stdin:\n"
        "    for sock in socks: sock.send(data)\n"
    )
    sender = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=on_the_daemons_core,
    )
    try:
        assert sender.stdin is not None
        assert sender.stdout is not None
        port, watchers = int(sender.stdout.readline()), Watchers()
        for _ in range(count):
            watchers.add(socket.create_connection(("127.0.0.1", port)))
        rounds = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            sender.stdin.write("go\n")
            sender.stdin.flush()
            rounds.append((watchers.wait_until_all_have(b"\n\n\r\n") - begun) * 1000)
        return rounds
    finally:
        sender.kill()
        sender.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--watchers", type=int, default=10_000)
    parser.add_argument("--instances", type=int, default=0, help="how many there are already, for the snapshots")
    asked = parser.parse_args()
    count = asked.watchers
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {READERS_CORE})
    rounds, each = measure_daemon(count, asked.instances)
    limit = measure_limit(count)
    print("\r", end="", file=sys.stderr, flush=True)
    print(f"{'watchers':>10}  {'median ms':>10} {'worst ms':>10} {'bare sends':>11} {'ratio':>6} {'kB each':>8}")
    median, bare = statistics.median(rounds), statistics.median(limit)
    print(f"{count:>10,}  {median:>10.1f} {max(rounds):>10.1f} {bare:>11.1f} {median / bare:>6.2f} {each / 1000:>8.1f}")


if __name__ == "__main__":
    main()
