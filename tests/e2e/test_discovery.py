"""Discovery under stress, with a real daemon: a watcher whose line is cut, a drain under load, a stall."""

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from process import DEADLINE, RunningDaemon, StartDaemon

pytestmark = pytest.mark.e2e


def stream(
    daemon: RunningDaemon, query: str = "", last_id: int | None = None
) -> tuple[socket.socket, Iterator[tuple[str, int, dict[str, object]]]]:
    """A watcher's connection, and its events as (kind, id, data). It ends where the connection does."""
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    connection = http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=DEADLINE)
    connection.request("GET", f"/watch{query}", headers=headers)
    sock = connection.sock
    response = connection.getresponse()
    assert response.status == 200

    def events() -> Iterator[tuple[str, int, dict[str, object]]]:
        fields: dict[str, str] = {}
        for raw in response:
            line = raw.decode().rstrip("\n")
            if not line and fields:
                yield fields["event"], int(fields["id"]), json.loads(fields["data"])
                fields = {}
            elif line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value

    return sock, events()


def wait_until(daemon: RunningDaemon, is_so: Callable[[], bool]) -> None:
    """Waits for something that happens by itself, asking the daemon for its health in between."""
    end = time.monotonic() + DEADLINE
    while not is_so():
        assert daemon.fetch("/livez").status == 200
        assert time.monotonic() < end


def test_a_watcher_whose_line_is_cut_again_and_again_misses_nothing_and_gets_nothing_twice(
    daemon: RunningDaemon,
) -> None:
    def churn() -> None:
        client = http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=DEADLINE)
        for n in range(1000):
            body = {"service_name": f"s{n % 7}", "base_url": "http://h:1", "instance_id": f"i{n % 50}", "weight": n}
            client.request("POST", "/register", json.dumps(body))
            client.getresponse().read()
        client.close()
        daemon.register(instance_id="the-end")

    sock, events = stream(daemon)
    _, first, _ = next(events)
    churning = threading.Thread(target=churn)
    churning.start()
    seen: list[int] = []
    cuts = 0
    is_over = False
    while not is_over:
        for kind, index, data in events:
            assert kind != "snapshot", "the history reaches back"
            seen.append(index)
            is_over = data["instance_id"] == "the-end"
            if is_over or len(seen) % 97 == 0:
                break
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        if not is_over:
            cuts += 1
            sock, events = stream(daemon, last_id=seen[-1])
    churning.join(DEADLINE)

    assert seen == list(range(first + 1, first + 1 + len(seen))), "no gap and no repeat"
    assert len(seen) > 1000
    assert cuts >= 10


def test_after_the_answer_to_a_drain_no_reader_gets_the_instance(daemon: RunningDaemon) -> None:
    for instance_id in ("a", "b"):
        daemon.register(instance_id=instance_id)
    drained = threading.Event()
    stop = threading.Event()
    failures: list[str] = []
    reads = [0] * 4

    def read(number: int) -> None:
        client = http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=DEADLINE)
        paths = ["/services/users", "/services/users?pick=1", "/services/users?near=x&limit=2", "/services/users?min=1"]
        while not stop.is_set():
            was_drained = drained.is_set()
            client.request("GET", paths[number])
            body = client.getresponse().read()
            reads[number] += 1
            if was_drained and b'"instance_id":"a"' in body:
                failures.append(body.decode())
        client.close()

    readers = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for reader in readers:
        reader.start()
    wait_until(daemon, lambda: min(reads) >= 50)
    sock, events = stream(daemon)
    answer = daemon.fetch("/drain/a", "POST", {"reason": "deploy"}).json
    drained.set()
    at_drain = list(reads)
    wait_until(daemon, lambda: all(now >= then + 50 for now, then in zip(reads, at_drain, strict=True)))
    stop.set()
    for reader in readers:
        reader.join(DEADLINE)

    assert [next(events)[0], next(events)[0]] == ["snapshot", "updated"]
    sock.close()

    assert failures == []
    assert answer["last_handed_out_at"] is not None
    assert daemon.fetch("/drain/a", "POST").json == answer, "it does not move, though a watcher was told"


def test_a_stall_expires_nobody_and_its_watchers_hear_of_no_death(start_daemon: StartDaemon) -> None:
    stopped, running = start_daemon("--cleanup-interval", "3600"), start_daemon("--cleanup-interval", "0.1")
    for n in range(100):
        stopped.register(instance_id=f"i{n}", ttl=2)
    sock, events = stream(stopped)
    kind, _, data = next(events)
    assert (kind, data["count"]) == ("snapshot", 100)
    stopped.signal(signal.SIGSTOP)
    running.register(instance_id="clock", ttl=2.5)
    running.wait_for_line("expired service=users instance=clock")  # so much time has passed
    stopped.signal(signal.SIGCONT)
    renewed = stopped.fetch("/heartbeats", "POST", {"instance_ids": [f"i{n}" for n in range(100)]}).json

    assert renewed == {"renewed": 100, "unknown": []}
    assert stopped.fetch("/status").json["leases"]["expired"] == 0
    stopped.register("users", instance_id="next")
    kind, _, data = next(events)
    assert (kind, data["instance_id"]) == ("registered", "next"), "nothing has happened in between"
    sock.close()


def test_watchers_and_waiting_readers_get_an_answer_when_it_stops(daemon: RunningDaemon) -> None:
    sock, events = stream(daemon)
    _, index, _ = next(events)
    answers: list[int] = []
    poll = threading.Thread(target=lambda: answers.append(daemon.fetch(f"/services?index={index}&wait=10m").status))
    poll.start()
    wait_until(daemon, lambda: daemon.fetch("/status").json["watchers"] == 2)
    daemon.signal(signal.SIGTERM)

    assert list(events) == [], "the stream ends in order"
    sock.close()
    poll.join(DEADLINE)
    assert answers == [200]
    assert daemon.wait() == 0
