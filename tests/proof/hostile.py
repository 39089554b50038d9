"""Clients that want to hurt, against a real registryd: `python tests/proof/hostile.py`

Bombs (bombs.py), heads and bodies that come a byte at a time, readers who do not read, and a mass of connections that
say nothing. Meanwhile a witness sends heartbeats, each on a new connection, for a lease that no two lost ones outlive,
and looks itself up: every one must be answered. In the end nothing is left: as many files are open as before, and the
log has nothing in it but what is to be there. Ends with status 1 where that is not so.
"""

import argparse
import asyncio
import contextlib
import itertools
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import urlsplit

# As in a test, what is shared is imported from the folder of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))

from process import DEADLINE, Reply, RunningDaemon, fetch
from proof.bombs import NONE, Bomb, all_bombs

#: Seconds after which the registry under test gives up a client; it gives up in a third more at the latest.
PATIENCE = 1.5
#: Seconds of the witness's lease, and between two of its heartbeats.
TTL, EVERY = 3.0, 0.25
WITNESS = {"service_name": "witness", "base_url": "http://h", "instance_id": "w", "ttl": TTL}
#: Bytes in all that may wait for clients.
WAITING = 64 * 1024 * 1024
#: What may be in the log above INFO: what was done about them, and that the machine gave us no turn for a second.
EXPECTED = ("bytes wait for clients", "stalled seconds=", "connections (--max-connections-per-address)")
#: Connections that one address gets; there are as many addresses in 127.0.0.0/8 as anyone likes.
EACH_ADDRESS = 5_000

#: Files that may be open for connections that come and go meanwhile.
LATE = 2

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Witness:
    """Someone who has done nothing to anyone, in a thread of its own, as those who hurt are busy."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.latencies: list[float] = []
        self.failure: Exception | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self) -> None:
        """Lives from now on."""
        self._thread.start()

    def end(self) -> None:
        """Has lived long enough, and must have been well."""
        self._is_over.set()
        self._thread.join(DEADLINE)
        if self.failure is not None:
            raise self.failure

    def _live(self) -> None:
        try:
            self._ask("POST", "/register", WITNESS)
            while not self._is_over.wait(EVERY):
                begun = time.monotonic()
                self._ask("POST", "/heartbeat/w")
                listed = self._ask("GET", "/services/witness").json
                assert listed["count"] == 1, "it is alive, and listed"
                self.latencies.append(time.monotonic() - begun)
        except Exception as failure:  # which `end` raises
            self.failure = failure

    def _ask(self, method: str, path: str, body: object = None) -> Reply:
        reply = fetch(self._url + path, method, body)
        assert reply.status == 200, reply
        return reply


class Scene(NamedTuple):
    """A registry, and who asks it."""

    daemon: RunningDaemon
    port: int
    witness: Witness

    @contextlib.asynccontextmanager
    async def connection(self, address: str = "127.0.0.1", buffer: int | None = None) -> AsyncIterator[Streams]:
        """A connection from this address."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(address, 0), limit=buffer or 2**16
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def files(self) -> int:
        """How many files the registry has open."""
        return len(list(Path(f"/proc/{self.daemon.popen.pid}/fd").iterdir()))

    def memory(self) -> int:
        """Its resident memory in bytes."""
        pages = Path(f"/proc/{self.daemon.popen.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Waits until something is so, but not for ever."""
        end = time.monotonic() + DEADLINE + PATIENCE
        while not is_so():
            assert time.monotonic() < end, f"never came: {what}"
            await asyncio.sleep(0.05)


async def explode(scene: Scene, bombs: Iterable[Bomb]) -> str:
    """Each bomb on a connection of its own."""
    seen: Counter[str] = Counter()
    for bomb in bombs:
        async with scene.connection() as (reader, writer):
            with contextlib.suppress(OSError):  # it has had enough
                writer.write(bomb.data)
                await asyncio.wait_for(writer.drain(), DEADLINE)
            first = b""
            with contextlib.suppress(ConnectionError):
                first = await asyncio.wait_for(reader.readline(), DEADLINE)
        status = int(first[9:12]) if first else NONE
        assert status in bomb.statuses, f"{bomb.name}: {first!r}"
        seen[str(status or "closed")] += 1
    return f"{sum(seen.values())} bombs: " + ", ".join(f"{count} x {status}" for status, count in sorted(seen.items()))


async def trickle(scene: Scene, count: int, head: bytes, what: str) -> str:
    """So many connections on which `head` is followed by a byte at a time, until they are closed."""

    async def one() -> float:
        async with scene.connection() as (reader, writer):
            begun = time.monotonic()
            writer.write(head)
            ending = asyncio.ensure_future(reader.read())
            while not ending.done():
                writer.write(b"x")
                await asyncio.wait({ending}, timeout=PATIENCE / 10)
                assert time.monotonic() < begun + DEADLINE, f"{what}: it waits and waits"
            ending.exception()
            return time.monotonic() - begun

    took = await asyncio.gather(*(one() for _ in range(count)))
    return f"{count} {what}: cut off after {min(took):.1f} to {max(took):.1f} s"


async def stay_deaf(scene: Scene, count: int) -> str:
    """So many who ask for a large list again and again, and never read."""
    async with scene.connection() as (reader, writer):
        metadata = ",".join(f'"{n}":"{"x" * 1000}"' for n in range(60))
        for n in range(40):
            body = f'{{"service_name":"large","base_url":"http://h","instance_id":"l{n}","ttl":600,"metadata":{{{metadata}}}}}'
            writer.write(
                f"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
    before, files = scene.memory(), scene.files()
    most = before
    async with contextlib.AsyncExitStack() as stack:
        deaf = [await stack.enter_async_context(scene.connection(buffer=1024)) for _ in range(count)]
        await scene.until(lambda: scene.files() >= files + count - LATE, "all of them are taken in")
        for _, writer in deaf:
            cast("asyncio.Transport", writer.transport).pause_reading()
            writer.write(b"GET /services/large HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        end = time.monotonic() + DEADLINE
        while scene.files() > files + LATE:
            most = max(most, scene.memory())
            assert time.monotonic() < end, "who does not read is let go"
            await asyncio.sleep(0.05)
    return f"{count} who do not read 48 MB each: all cut off, {(most - before) / 2**20:.0f} MiB in between"


async def fill(scene: Scene, count: int) -> str:
    """A mass of connections that say nothing. The registry is to have patience with them here."""
    addresses = (f"127.0.{n // EACH_ADDRESS // 250}.{2 + n // EACH_ADDRESS % 250}" for n in itertools.count())
    files, memory = scene.files(), scene.memory()
    async with contextlib.AsyncExitStack() as stack:
        begun = time.monotonic()
        for address in itertools.islice(addresses, count):
            await stack.enter_async_context(scene.connection(address, 1024))
        took = time.monotonic() - begun
        await scene.until(lambda: scene.files() >= files + count - LATE, "all of them are taken in")
        each = (scene.memory() - memory) / count
        asked = len(scene.witness.latencies)
        await scene.until(lambda: len(scene.witness.latencies) > asked + 3, "the witness is served")
    await scene.until(lambda: scene.files() <= files + LATE, "they are let go")
    return f"{count:,} idle connections in {took:.1f} s: {each / 1024:.1f} KiB each"


async def attack(scene: Scene, doings: Iterable[Callable[[Scene], Awaitable[str]]]) -> None:
    """Does one after the other, with the witness beside it, and prints what came of it."""
    witness = scene.witness
    witness.start()
    try:
        await scene.until(lambda: bool(witness.latencies or witness.failure), "the witness lives")
        files = scene.files()
        for do in doings:
            print(f"  {await do(scene)}", flush=True)
        await scene.until(lambda: scene.files() <= files + LATE, "nothing is left open")
    finally:
        witness.end()
    latencies = sorted(witness.latencies)
    print(
        f"  the witness: {2 * len(latencies):,} requests, each answered and each time listed; both of a pair in "
        f"{latencies[len(latencies) // 2] * 1000:.0f} ms (median), {latencies[-1] * 1000:.0f} ms (longest)"
    )


def stand(folder: Path, http: str, patience: float, doings: Iterable[Callable[[Scene], Awaitable[str]]]) -> None:
    """A registry that has it all done to it, and must end in order afterwards."""
    impatient = [sys.executable, str(Path(__file__).with_name("impatient.py")), str(patience)]
    flags = ["--http", http, "--max-waiting-bytes", str(WAITING)]
    with RunningDaemon(folder, *flags, argv=impatient) as daemon:
        port = urlsplit(daemon.url).port or 0
        print(f"{http}, which waits for {patience:g} s:")
        asyncio.run(attack(Scene(daemon, port, Witness(daemon.url)), doings))
        daemon.popen.terminate()
        assert daemon.wait() == 0
        loud = [line for line in daemon.lines if " INFO " not in line and not any(one in line for one in EXPECTED)]
        assert not loud, loud


def hurt(folder: Path, http: str, *, size: int, slow: int, deaf: int, connections: int) -> None:
    """All of it, to one kind of server."""
    get, post = (
        b"GET /services/users HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"POST /register HTTP/1.1\r\nHost: localhost\r\n",
    )
    stand(
        folder,
        http,
        PATIENCE,
        [
            lambda scene: explode(scene, all_bombs(size)),
            lambda scene: trickle(scene, slow, get, "heads that come a byte at a time"),
            lambda scene: trickle(
                scene, slow, post + b"Content-Length: 9999\r\n\r\n", "bodies that come a byte at a time"
            ),
            lambda scene: stay_deaf(scene, deaf),
        ],
    )
    stand(folder, http, 600.0, [lambda scene: fill(scene, connections)])


def allow_files(parser: argparse.ArgumentParser, count: int) -> None:
    """Has this process and the registry open so many files, or says what to do."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(count, hard), max(count, hard)))
    except ValueError:
        parser.error(f"no process may open {count} files here but {hard}: ask for fewer --connections, or be root")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=20_000, help="idle ones")
    parser.add_argument("--slow", type=int, default=1000, help="of each kind of slow clients")
    parser.add_argument("--deaf", type=int, default=50, help="clients who do not read")
    parser.add_argument("--size", type=int, default=20_000_000, help="bytes of a large bomb")
    parser.add_argument("--http", choices=["front", "tornado"], action="append", help="which server; both if not given")
    asked = parser.parse_args()
    allow_files(parser, asked.connections + 200)
    for http in asked.http or ["front", "tornado"]:
        with tempfile.TemporaryDirectory() as folder:
            hurt(Path(folder), http, size=asked.size, slow=asked.slow, deaf=asked.deaf, connections=asked.connections)


if __name__ == "__main__":
    main()
