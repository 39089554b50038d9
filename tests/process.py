"""Real processes for end-to-end tests: started, waited for by events with a deadline, and always ended."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

#: Seconds after which something that was to happen is held not to.
DEADLINE = 20.0


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def fetch(url: str, method: str = "GET", body: object = None) -> Reply:
    """One request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=DEADLINE)
    with contextlib.closing(connection):
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), raw)
        response = connection.getresponse()
        return Reply(response.status, dict(response.headers), response.read())


#: Becomes a command that finds file descriptors from 3 on, as a service manager hands them over: their names, their
#: numbers here, and the command are the arguments.
HAND_OVER = """
import os, sys
names, numbers = sys.argv[1], [int(number) for number in sys.argv[2].split(",")]
spare = [os.dup2(number, 1000 + n) for n, number in enumerate(numbers)]
for n, number in enumerate(spare):
    os.dup2(number, 3 + n)
    os.close(number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": names}
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Process:
    """A process whose standard error is read line by line. `handed` are the file descriptors that it is handed, each
    after its name."""

    def __init__(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str] | None = None,
        handed: Sequence[tuple[str, int]] = (),
    ) -> None:
        reading, writing = os.pipe()
        stat = os.fstat(writing)
        #: What JOURNAL_STREAM would be if systemd's journal were reading: see systemd.exec(5).
        self.stream = f"{stat.st_dev}:{stat.st_ino}"
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REGISTR", "NOTIFY_", "WATCHDOG_", "LISTEN_"))
        }
        own |= {"PYTHONUNBUFFERED": "1", **(environ or {})}
        own = {name: value.replace("{stream}", self.stream) for name, value in own.items()}
        numbers = [number for _, number in handed]
        if handed:
            names = ":".join(name for name, _ in handed)
            argv = [sys.executable, "-c", HAND_OVER, names, ",".join(map(str, numbers)), *argv]
        self.popen = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, env=own, pass_fds=numbers
        )
        os.close(writing)
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()
        assert "Traceback" not in self.output, self.output

    @property
    def output(self) -> str:
        """All that it has written so far."""
        return "\n".join(self.lines)

    @property
    def events(self) -> list[str]:
        """Its lines, but for stalls, which a machine under load may well bring."""
        return [line for line in self.lines if "stalled seconds=" not in line]

    def wait_for_line(self, regex: str, seconds: float = DEADLINE) -> re.Match[str]:
        """The first line that matches, as soon as there is one."""
        with self._more:
            found: list[re.Match[str]] = []

            def is_there() -> bool:
                found[:] = [match for line in self.lines if (match := re.search(regex, line))]
                return bool(found) or not self._reader.is_alive()

            self._more.wait_for(is_there, seconds)
        assert found, f"no line matches {regex!r} in:\n{self.output}"
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        """The exit status, as soon as it has ended."""
        status = self.popen.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return status

    def _read(self, descriptor: int) -> None:
        with open(descriptor, encoding="utf-8") as pipe:
            for line in pipe:
                with self._more:
                    self.lines.append(line.rstrip("\n"))
                    self._more.notify_all()
        with self._more:
            self._more.notify_all()


class Manager:
    """A service manager as far as sd_notify goes: a socket, what came in on it, and the descriptors that it keeps. Like
    systemd it listens all the time, or who is told by it to wait would wait for ever."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.heard: list[str] = []
        #: The descriptors that it keeps, each after its name.
        self.kept: list[tuple[str, int]] = []
        self._more = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait_for(self, state: str, times: int = 1) -> None:
        """Waits until this state has been sent, or has been so often."""
        with self._more:
            came = self._more.wait_for(lambda: self.heard.count(state) >= times, DEADLINE)
        assert came, f"no {state} in {self.heard}"

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self.address)
        self._listener.join(DEADLINE)
        self._socket.close()
        self._drop("connection")

    def _listen(self) -> None:
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 253)
            if not data:
                return
            states = data.decode().split("\n")
            with self._more:
                self._take(states, descriptors)
                self.heard += states
                self._more.notify_all()

    def _take(self, states: list[str], descriptors: list[int]) -> None:
        name = next((state.removeprefix("FDNAME=") for state in states if state.startswith("FDNAME=")), "stored")
        if "FDSTORE=1" in states:
            self.kept += [(name, descriptor) for descriptor in descriptors]
            return
        if "FDSTOREREMOVE=1" in states:
            self._drop(name)
        for descriptor in descriptors:  # of a barrier
            os.close(descriptor)

    def _drop(self, name: str) -> None:
        for kept in [kept for kept in self.kept if kept[0] == name]:
            self.kept.remove(kept)
            os.close(kept[1])


class RunningDaemon(Process):
    """A real registryd on a free port, ready: under a manager of its own, or under one that has had others before."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        environ: Mapping[str, str] | None = None,
        argv: Sequence[str] | None = None,
        handed: Sequence[tuple[str, int]] = (),
        manager: Manager | None = None,
    ) -> None:
        self.manager = manager or Manager(folder / f"notify-{time.monotonic_ns()}")
        self._is_own = manager is None
        ready = self.manager.heard.count("READY=1") + 1
        command = argv or [sys.executable, "-m", "registryd"]
        told = {"NOTIFY_SOCKET": self.manager.address, **(environ or {})}
        super().__init__([*command, "--port", "0", *args], told, handed)
        try:
            self.manager.wait_for("READY=1", ready)
            self.url = self.wait_for_line(r"listening on (https?://\S+?),? ")[1]
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._is_own:
            self.manager.close()

    def fetch(self, path: str, method: str = "GET", body: object = None) -> Reply:
        return fetch(self.url + path, method, body)

    def register(self, service_name: str = "users", **more: object) -> Any:
        reply = self.fetch(
            "/register", "POST", {"service_name": service_name, "base_url": "http://10.0.0.5:8000"} | more
        )
        assert reply.status == 200, reply.body
        return reply.json

    def listed(self, service_name: str = "users") -> list[str]:
        return [instance["instance_id"] for instance in self.fetch(f"/services/{service_name}").json["instances"]]

    def connect(self, source: str = "") -> socket.socket:
        """A bare connection, from an address of this machine."""
        parts = urlsplit(self.url)
        address = (parts.hostname or "", parts.port or 0)
        return socket.create_connection(address, timeout=DEADLINE, source_address=(source, 0) if source else None)


StartDaemon = Callable[..., RunningDaemon]
