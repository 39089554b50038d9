"""Killed at any moment, the daemon has lost nothing that it has answered."""

import contextlib
import http.client
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process import Process, RunningDaemon, StartDaemon

from registryd.store.file import opened

pytestmark = pytest.mark.e2e

KILLS = 100
CLIENTS = 4


class Ledger:
    """What one client knows of its instances: what each must be, and where no answer came, what it may be as well."""

    def __init__(self, name: str, dice: random.Random) -> None:
        self.name = name
        self.dice = dice
        #: By instance_id: (generation, status as a reader sees it), or None where it is not registered.
        self.answered: dict[str, tuple[int, str] | None] = {}
        #: The one instance for which an answer is still to come.
        self.asked: str | None = None
        self.answers = 0

    def drive(self, netloc: str) -> None:
        """Changes things until the daemon is killed."""
        connection = http.client.HTTPConnection(netloc, timeout=20)
        try:
            while True:
                self.step(connection)
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def step(self, connection: http.client.HTTPConnection) -> None:
        instance_id = f"{self.name}-{self.dice.randrange(30)}"
        is_there = self.answered.get(instance_id) is not None
        path = self.dice.choice(["register", "deregister", "drain", "resume"]) if is_there else "register"
        self.asked = instance_id
        if path == "register":
            body = {"service_name": self.name, "base_url": "http://h", "instance_id": instance_id, "ttl": 3600}
            connection.request("POST", "/register", json.dumps(body))
        elif path == "deregister":
            connection.request("DELETE", f"/deregister/{instance_id}")
        else:
            connection.request("POST", f"/{path}/{instance_id}")
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 200, answer
        self.answered[instance_id] = None if path == "deregister" else (answer["generation"], answer["status"])
        self.asked = None
        self.answers += 1

    def compare(self, there: dict[str, Any]) -> None:
        """Holds what is there against what was answered, and takes it over where no answer has come."""
        for instance_id, known in self.answered.items():
            found = there.get(instance_id)
            now = (found["generation"], found["status"]) if found else None
            if instance_id != self.asked:
                assert now == known, f"{instance_id} was {known} when it was answered, and is {now}"
        if self.asked is not None:
            found = there.get(self.asked)
            self.answered[self.asked] = (found["generation"], found["status"]) if found else None
            self.asked = None


def all_there(daemon: RunningDaemon, name: str) -> dict[str, Any]:
    listed = daemon.fetch(f"/services/{name}?status=any").json["instances"]
    return {instance["instance_id"]: instance for instance in listed}


def test_what_was_answered_is_there_after_a_hundred_kills(start_daemon: StartDaemon, tmp_path: Path) -> None:
    dice = random.Random(5)
    ledgers = [Ledger(f"s{n}", random.Random(n)) for n in range(CLIENTS)]
    index = 0
    for _ in range(KILLS):
        daemon = start_daemon("--state-dir", str(tmp_path))
        for ledger in ledgers:
            ledger.compare(all_there(daemon, ledger.name))
        begins = int(daemon.fetch("/services").headers["Registry-Index"])
        assert begins > index, "the index never goes back"
        netloc = daemon.url.removeprefix("http://")
        threads = [threading.Thread(target=ledger.drive, args=(netloc,)) for ledger in ledgers]
        wanted = sum(ledger.answers for ledger in ledgers) + dice.randrange(1, 120)
        for thread in threads:
            thread.start()
        while sum(ledger.answers for ledger in ledgers) < wanted:
            index = max(index, int(daemon.fetch("/status").headers["Registry-Index"]))
        daemon.signal(signal.SIGKILL)
        for thread in threads:
            thread.join(20)
        daemon.wait()

    assert sum(ledger.answers for ledger in ledgers) >= KILLS


#: Becomes a registryd whose disk takes nothing from the moment on when it serves.
HANGING = """
import sys
from concurrent.futures import Future
from registryd import cli
from registryd.store.sqlite import DiskThread

DiskThread.submit = lambda self, do, *args: Future()
sys.exit(cli.main())
"""


def test_no_index_comes_again_after_a_life_in_which_nothing_could_be_written(tmp_path: Path) -> None:
    """Not even where the wall clock, by which an index would be higher anyway, has gone back in between."""
    state = tmp_path / "state"
    state.mkdir()
    with RunningDaemon(tmp_path, "--state-dir", str(state)) as daemon:
        daemon.signal(signal.SIGTERM)
        daemon.wait()
    with RunningDaemon(tmp_path, "--state-dir", str(state), argv=[sys.executable, "-c", HANGING]) as daemon:
        index = int(daemon.fetch("/services").headers["Registry-Index"])
        daemon.signal(signal.SIGKILL)
        daemon.wait()

    with opened(state) as file:
        assert file.load().next_index > index + 1


@contextlib.contextmanager
def failing_disk(daemon: RunningDaemon) -> Iterator[None]:
    """Nothing that the daemon writes can be brought to the disk meanwhile."""
    calls = "fsync,fdatasync"
    command = ["strace", "-f", "-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO", "-p", str(daemon.popen.pid)]
    with Process(command) as strace:
        strace.wait_for_line("attached")
        try:
            yield
        finally:
            strace.signal(signal.SIGINT)
            strace.wait()


CASES = {
    "a registration": ("POST", "/register", {"service_name": "users", "base_url": "http://new", "instance_id": "new"}),
    "a takeover": ("POST", "/register", {"service_name": "users", "base_url": "http://new", "instance_id": "i1"}),
    "a deregistration": ("DELETE", "/deregister/i1", None),
    "an override": ("POST", "/drain/i1", None),
}


@pytest.mark.skipif(
    shutil.which("strace") is None,
    reason="only strace can have the syncs of a running registryd fail, and only Debian has it, not PyPI: "
    "apt-get install strace (.ci/run does)",
)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_failing_disk_has_refused_never_was(
    start_daemon: StartDaemon, tmp_path: Path, case: str, end: signal.Signals
) -> None:
    """Where the sync fails, what was written before it is whole, and must not count all the same."""
    daemon = start_daemon("--state-dir", str(tmp_path))
    daemon.register(instance_id="i1", ttl=3600)
    before = all_there(daemon, "users")
    with failing_disk(daemon):
        assert daemon.fetch(CASES[case][1], CASES[case][0], CASES[case][2]).json["code"] == "store_unavailable"
        assert daemon.fetch("/status").json["reasons"] == ["store_unavailable"]
    daemon.wait_for_line("can be written to again")
    assert all_there(daemon, "users") == before
    daemon.fetch("/maintenance/i1", "POST")
    after = all_there(daemon, "users")
    daemon.signal(end)
    daemon.wait()

    again = all_there(start_daemon("--state-dir", str(tmp_path)), "users")
    assert {name: (it["base_url"], it["generation"], it["status"]) for name, it in again.items()} == {
        name: (it["base_url"], it["generation"], it["status"]) for name, it in after.items()
    }


def test_a_full_disk_refuses_changes_and_nothing_else(start_daemon: StartDaemon, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    daemon = start_daemon("--state-dir", str(state))
    daemon.register(instance_id="before")
    _, hard = resource.prlimit(daemon.popen.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.popen.pid, resource.RLIMIT_FSIZE, (4096, hard))

    body = {"service_name": "users", "base_url": "http://h", "instance_id": "late"}
    reply = daemon.fetch("/register", "POST", body)
    assert (reply.status, reply.json["code"], reply.headers["Retry-After"]) == (503, "store_unavailable", "1")
    assert daemon.fetch("/heartbeat/before", "POST").status == 200
    assert daemon.listed() == ["before"]
    status = daemon.fetch("/status").json
    assert (status["status"], status["reasons"]) == ("degraded", ["store_unavailable"])

    resource.prlimit(daemon.popen.pid, resource.RLIMIT_FSIZE, (hard, hard))
    daemon.wait_for_line("can be written to again")
    assert daemon.fetch("/register", "POST", body).status == 200
    assert daemon.fetch("/status").json["status"] == "ok"
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_a_damaged_state_is_never_published_as_nothing(start_daemon: StartDaemon, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "registryd.db").write_bytes(b"x" * 5000)
    daemon = start_daemon("--state-dir", str(state), "--heartbeat-timeout", "2")

    for path in ["/services/users", "/services", "/instances/i1", "/explain/users", "/watch"]:
        reply = daemon.fetch(path)
        assert (reply.status, reply.json["code"]) == (503, "recovering"), path
    assert daemon.fetch("/readyz").status == 503
    assert daemon.fetch("/status").json["reasons"] == ["recovering"]
    daemon.register(instance_id="i1", ttl=60)
    while (reply := daemon.fetch("/services/users")).status == 503:
        pass
    assert [instance["instance_id"] for instance in reply.json["instances"]] == ["i1"]
    assert len(list(state.glob("registryd.db.damaged-*"))) == 1


def check_state(*args: str) -> tuple[int, str]:
    with Process([sys.executable, "-m", "registryd", "--check-state", *args]) as process:
        return process.wait(), process.output


def test_check_state_says_what_is_there(start_daemon: StartDaemon, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    assert check_state() == (2, "registryd: there is no state directory to check; set --state-dir")
    assert check_state("--state-dir", str(state)) == (
        2,
        f"registryd: there is no {state}/registryd.db; set --state-dir",
    )
    daemon = start_daemon("--state-dir", str(state))
    daemon.register(instance_id="i1")
    daemon.register("timelines")
    daemon.fetch("/deregister/i1", "DELETE")
    assert check_state("--state-dir", str(state))[0] == 2, "it is in use"
    daemon.signal(signal.SIGTERM)
    daemon.wait()

    status, output = check_state("--state-dir", str(state))
    assert status == 0
    assert output.splitlines()[1:] == [
        "1 instances of 1 services, 1 remembered as gone",
        "       1 timelines",
        "the last life ended in order",
    ]
    (state / "registryd.db").write_bytes(b"x" * 5000)
    status, output = check_state("--state-dir", str(state))
    assert status == 1
    assert output.startswith("damaged: ")
    assert (state / "registryd.db").exists(), "a look changes nothing"


def test_whoever_reads_what_check_state_says_may_stop(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon("--state-dir", str(tmp_path))
    daemon.signal(signal.SIGTERM)
    daemon.wait()
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody:
        argv = [sys.executable, "-m", "registryd", "--check-state", "--state-dir", str(tmp_path)]
        ran = subprocess.run(argv, stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (-signal.SIGPIPE, "")


def test_two_daemons_do_not_share_a_state(start_daemon: StartDaemon, tmp_path: Path) -> None:
    start_daemon("--state-dir", str(tmp_path))
    with Process([sys.executable, "-m", "registryd", "--port", "0", "--state-dir", str(tmp_path)]) as other:
        assert other.wait() == 2
    assert "is in use by another registryd; stop that one, or set --state-dir" in other.output
