"""The servers that load.py drives: how each is called, started on a core of its own, filled and ended. Knows nothing of
wrk, of rounds and of figures.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, Self

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
#: Seconds after which something that was to happen is held not to.
PATIENCE = 20.0
#: Requests sent in one go while a server is filled.
BATCH = 64
#: nginx reads no parameter of more than 4096 bytes, so that a longer body is put together of pieces.
PIECE = 3000


class Failed(Exception):
    """A server did not start, or answered something else than it should."""


class Request(NamedTuple):
    """One call: what is in its request line, and its body."""

    method: str
    target: str
    body: str = ""


class Calls(Protocol):
    """How a server spells the acts of a registry. An instance is a number, and so is a service."""

    def prepare(self) -> list[Request]:
        """What is called once, before there is any instance."""

    def fill(self, instances: Iterable[tuple[int, int]]) -> Iterator[Request]:
        """Calls after which all of these (service, instance) are registered."""

    def register(self, service: int, instance: int) -> Request:
        """Registers, or takes over, an instance under its own id."""

    def register_new(self) -> list[Request]:
        """Calls that make a new instance each: one, where the server gives out the ids."""

    def heartbeat(self, instance: int) -> Request: ...

    def lookup(self, service: int) -> Request: ...

    def instance(self, instance: int) -> Request: ...


class RegistryCalls:
    """The calls of API.md: those of registryd, and of all that stand in for it."""

    def prepare(self) -> list[Request]:
        return []

    def fill(self, instances: Iterable[tuple[int, int]]) -> Iterator[Request]:
        return (self.register(service, instance) for service, instance in instances)

    def register(self, service: int, instance: int) -> Request:
        body = {"service_name": f"s-{service}", "base_url": "http://10.0.0.5:8000", "instance_id": f"i-{instance}"}
        return Request("POST", "/register", json.dumps(body))

    def register_new(self) -> list[Request]:
        body = {"service_name": "s-1", "base_url": "http://10.0.0.5:8000"}
        return [Request("POST", "/register", json.dumps(body))]

    def heartbeat(self, instance: int) -> Request:
        return Request("POST", f"/heartbeat/i-{instance}")

    def lookup(self, service: int) -> Request:
        return Request("GET", f"/services/s-{service}")

    def instance(self, instance: int) -> Request:
        return Request("GET", f"/instances/i-{instance}")


class EtcdCalls:
    """A registry as one builds it on etcd: a key per instance below its service, tied to a lease; a lookup is a range
    over the prefix. The leases are shared by many instances, as granting one for each would take minutes.
    """

    LEASES = 1000
    #: The most operations in one transaction, by default.
    OPERATIONS = 128

    def prepare(self) -> list[Request]:
        return [self._post("lease/grant", ID=lease, TTL=86400) for lease in range(1, self.LEASES + 1)]

    def fill(self, instances: Iterable[tuple[int, int]]) -> Iterator[Request]:
        there = iter(instances)
        while some := list(itertools.islice(there, self.OPERATIONS)):
            puts = [{"request_put": self._key_and_value(service, instance)} for service, instance in some]
            yield self._post("kv/txn", success=puts)

    def register(self, service: int, instance: int) -> Request:
        return self._post("kv/put", **self._key_and_value(service, instance))

    def register_new(self) -> list[Request]:
        return [self.register(1, instance) for instance in range(4096)]

    def heartbeat(self, instance: int) -> Request:
        return self._post("lease/keepalive", ID=self._lease(instance))

    def lookup(self, service: int) -> Request:
        # "0" is what follows "/", so that the range holds all keys below the service.
        return self._post("kv/range", key=self._text(f"s-{service}/"), range_end=self._text(f"s-{service}0"))

    def instance(self, instance: int) -> Request:
        raise NotImplementedError

    def _lease(self, instance: int) -> int:
        return instance % self.LEASES + 1

    def _key_and_value(self, service: int, instance: int) -> dict[str, object]:
        value = {"instance_id": f"i-{instance}", "service_name": f"s-{service}", "base_url": "http://10.0.0.5:8000"}
        key = self._text(f"s-{service}/i-{instance}")
        return {"key": key, "value": self._text(json.dumps(value)), "lease": self._lease(instance)}

    def _text(self, text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    def _post(self, call: str, **body: object) -> Request:
        return Request("POST", f"/v3/{call}", json.dumps(body))


class ConsulCalls:
    """Consul's agent: services with a check by TTL, which the heartbeat passes."""

    def prepare(self) -> list[Request]:
        return []

    def fill(self, instances: Iterable[tuple[int, int]]) -> Iterator[Request]:
        for service, instance in instances:
            yield self.register(service, instance)
            yield self.heartbeat(instance)

    def register(self, service: int, instance: int) -> Request:
        body = {"ID": f"i-{instance}", "Name": f"s-{service}", "Address": "10.0.0.5", "Port": 8000}
        return Request("PUT", "/v1/agent/service/register", json.dumps(body | {"Check": {"TTL": "24h"}}))

    def register_new(self) -> list[Request]:
        return [self.register(1, instance) for instance in range(4096)]

    def heartbeat(self, instance: int) -> Request:
        return Request("PUT", f"/v1/agent/check/pass/service:i-{instance}")

    def lookup(self, service: int) -> Request:
        return Request("GET", f"/v1/health/service/s-{service}?passing")

    def instance(self, instance: int) -> Request:
        raise NotImplementedError


class LookupdCalls:
    """nsqlookupd over HTTP: topics. Its producers come over a protocol of its own, so that its lookup finds none."""

    def prepare(self) -> list[Request]:
        return []

    def fill(self, instances: Iterable[tuple[int, int]]) -> Iterator[Request]:
        for service in sorted({service for service, _ in instances}):
            yield Request("POST", f"/topic/create?topic=s-{service}")

    def register(self, service: int, instance: int) -> Request:
        raise NotImplementedError

    def register_new(self) -> list[Request]:
        raise NotImplementedError

    def heartbeat(self, instance: int) -> Request:
        raise NotImplementedError

    def lookup(self, service: int) -> Request:
        return Request("GET", f"/lookup?topic=s-{service}")

    def instance(self, instance: int) -> Request:
        raise NotImplementedError


class Place(NamedTuple):
    """Where a server lives, and what it answers if it answers constants: a body by the beginning of the target."""

    folder: Path
    port: int
    bodies: Mapping[str, bytes]


class Server(NamedTuple):
    """A kind of server. `says_its_port` finds the port in the log of one that takes a free port by itself."""

    name: str
    title: str
    calls: Calls
    #: The names of the works that it can be asked to do.
    works: frozenset[str]
    command: Callable[[Place], list[str]]
    #: A target that is answered 200 as soon as the server is ready.
    ready: str
    says_its_port: str | None = None
    #: Whether it answers the same without being filled, and whether a lookup lists the instances.
    is_constant: bool = False
    lists: bool = True
    #: The program that must be on the PATH, and the Debian package that it is in, if it is in one.
    program: str | None = None
    package: str | None = None

    def missing(self) -> str | None:
        """Why this server cannot be started here, or None."""
        if self.program is None or shutil.which(self.program):
            return None
        hint = f": apt-get install {self.package}" if self.package else ""
        return f"{self.name} is left out, {self.program} is not on the PATH{hint}"


def registryd(http: str, *, keeps: bool = False) -> Callable[[Place], list[str]]:
    """With `keeps`, its state is in its folder."""
    more = ["--heartbeat-timeout", "86400", "--max-instances", "20000000", "--max-instances-per-service", "20000000"]

    def command(place: Place) -> list[str]:
        state = ["--state-dir", str(place.folder)] if keeps else []
        return [sys.executable, "-m", "registryd", "--port", "0", "--http", http, *more, *state]

    return command


def peer(script: str) -> Callable[[Place], list[str]]:
    return lambda place: [sys.executable, str(PEERS / script), str(place.port)]


def echo(place: Place) -> list[str]:
    """Answers the first of the bodies, whatever is asked."""
    answer = place.folder / "answer"
    answer.write_bytes(next(iter(place.bodies.values())))
    return [sys.executable, str(PEERS / "echo.py"), str(place.port), str(answer)]


def nginx(place: Place) -> list[str]:
    """One process that answers each of the bodies with `return 200`."""
    config = place.folder / "nginx.conf"
    temporary = "\n".join(
        f"{kind}_temp_path {place.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    locations = "\n".join(constant(target, body.decode()) for target, body in place.bodies.items())
    config.write_text(
        f"daemon off; master_process off; worker_processes 1; pid {place.folder}/pid;\n"
        f"error_log stderr error;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{\naccess_log off;\n{temporary}\n"
        f"server {{ listen 127.0.0.1:{place.port};\nkeepalive_requests 1000000000;\ndefault_type application/json;\n"
        f"{locations}\nlocation / {{ return 200 ok; }}\n}}\n}}\n"
    )
    return ["nginx", "-e", "stderr", "-p", str(place.folder), "-c", str(config)]


def constant(target: str, body: str) -> str:
    """A location of nginx that answers this body. There must be no `$` in it, which nginx has no way to quote."""
    assert "$" not in body
    pieces = [body[at : at + PIECE].replace("\\", "\\\\").replace("'", "\\'") for at in range(0, len(body), PIECE)]
    if len(pieces) == 1:
        return f"location {target} {{ return 200 '{pieces[0]}'; }}"
    sets = "\n".join(f"set $p{n} '{piece}';" for n, piece in enumerate(pieces))
    return f"location {target} {{\n{sets}\nreturn 200 {''.join(f'${{p{n}}}' for n in range(len(pieces)))};\n}}"


def etcd(place: Place) -> list[str]:
    url = f"http://127.0.0.1:{place.port}"
    urls = ["--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:0"]
    return ["etcd", "--data-dir", str(place.folder / "data"), *urls, "--logger", "zap", "--log-level", "error"]


def consul(place: Place) -> list[str]:
    ports = [f"-{kind}-port={free_port()}" for kind in ("serf-lan", "serf-wan", "server")]
    off = ["-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-log-level=error"]
    return ["consul", "agent", "-dev", "-bind=127.0.0.1", f"-http-port={place.port}", *ports, *off]


def nsqlookupd(place: Place) -> list[str]:
    return ["nsqlookupd", f"-http-address=127.0.0.1:{place.port}", "-tcp-address=127.0.0.1:0", "-log-level=error"]


REGISTRY = frozenset({"lookup", "lookup1000", "heartbeat", "register", "mix"})
LISTENING = r"listening on http://127\.0\.0\.1:(\d+) "

SERVERS = [
    Server(
        "front", "registryd, its front", RegistryCalls(), REGISTRY | {"handler"},
        registryd("front"), "/readyz", LISTENING,
    ),
    Server(
        "tornado", "registryd, Tornado's server", RegistryCalls(), REGISTRY | {"handler"},
        registryd("tornado"), "/readyz", LISTENING,
    ),
    Server(
        "stored", "registryd, with --state-dir", RegistryCalls(), frozenset({"lookup", "heartbeat", "register"}),
        registryd("front", keeps=True), "/readyz", LISTENING,
    ),
    Server(
        "nginx", "return 200, constant bytes", RegistryCalls(), REGISTRY | {"handler"},
        nginx, "/", is_constant=True, program="nginx", package="nginx-light",
    ),
    Server(
        "echo", "httptools + uvloop, constant", RegistryCalls(), REGISTRY | {"handler"},
        echo, "/", is_constant=True,
    ),
    Server("fastapi", "the seed on FastAPI, uvicorn", RegistryCalls(), REGISTRY, peer("seed_fastapi.py"), "/status"),
    Server("plain", "the seed on plain Tornado", RegistryCalls(), REGISTRY, peer("seed_tornado.py"), "/status"),
    Server(
        "etcd", "JSON gateway", EtcdCalls(), REGISTRY,
        etcd, "/health", program="etcd", package="etcd-server",
    ),
    Server(
        "consul", "dev agent", ConsulCalls(), REGISTRY - {"mix"},
        consul, "/v1/status/leader", program="consul",
    ),
    Server(
        "nsqlookupd", "over HTTP", LookupdCalls(), frozenset({"lookup"}),
        nsqlookupd, "/ping", lists=False, program="nsqlookupd",
    ),
]  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Caller:
    """A keep-alive connection on which many requests may be under way."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file: BinaryIO = self._sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()

    def call(self, *requests: Request) -> list[bytes]:
        """The bodies of the answers. Anything but a 2xx is a Failed."""
        self._sock.sendall(b"".join(map(self._raw, requests)))
        return [self._answer(request) for request in requests]

    def _raw(self, request: Request) -> bytes:
        body = request.body.encode()
        about = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        return f"{request.method} {request.target} HTTP/1.1\r\nHost: localhost\r\n{about}\r\n".encode() + body

    def _answer(self, request: Request) -> bytes:
        status, headers = self._file.readline(), {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip().lower()
        body = self._chunks() if headers.get(b"transfer-encoding") == b"chunked" else self._sized(headers)
        if not re.match(rb"HTTP/1\.1 2\d\d ", status):
            said = status.decode(errors="replace").strip() or "closed the connection"
            raise Failed(f"{request.method} {request.target}: {said} {body[:200].decode(errors='replace')}")
        return body

    def _sized(self, headers: Mapping[bytes, bytes]) -> bytes:
        return self._file.read(int(headers.get(b"content-length", b"0")))

    def _chunks(self) -> bytes:
        body = b""
        while (size := int(self._file.readline() or b"0", 16)) > 0:
            body += self._file.read(size)
            self._file.readline()
        self._file.readline()
        return body


class Running:
    """A server's process on a core, from the moment when it is ready until the end of a `with`."""

    def __init__(self, server: Server, folder: Path, core: int, bodies: Mapping[str, bytes]) -> None:
        self.server = server
        self._log = folder / "log"
        port = 0 if server.says_its_port else free_port()
        command = server.command(Place(folder, port, bodies))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, {core})
            )
        try:
            self.port = self._wait_for_port() if server.says_its_port else port
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the process, by force if it does not go."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """Ends the process as nobody should."""
        self._process.kill()
        self._process.wait()

    def fill(self, instances: Iterable[tuple[int, int]], told: Callable[[int], None]) -> None:
        """Registers all of these (service, instance); `told` hears of each batch how many requests are done."""
        calls, done = self.server.calls, 0
        requests = itertools.chain(calls.prepare(), calls.fill(instances))
        with Caller(self.port) as caller:
            while batch := list(itertools.islice(requests, BATCH)):
                caller.call(*batch)
                done += len(batch)
                told(done)

    def busy(self) -> float:
        """Seconds of a core that the process has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing in its log"

    def _wait_for_port(self) -> int:
        assert self.server.says_its_port is not None
        for _ in self.tries():
            if found := re.search(self.server.says_its_port, self._log.read_text(errors="replace")):
                return int(found[1])
        raise Failed(f"{self.server.name} did not say its port: {self.last_words()}")

    def _wait_until_ready(self) -> None:
        for _ in self.tries():
            with contextlib.suppress(OSError, Failed), Caller(self.port) as caller:
                caller.call(Request("GET", self.server.ready))
                return
        raise Failed(f"{self.server.name} did not get ready: {self.last_words()}")

    def tries(self) -> Iterator[None]:
        """A turn every 20 ms, until patience ends; that the process ends is a Failed."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            yield
            try:
                self._process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
            raise Failed(f"{self.server.name} ended by itself: {self.last_words()}")
