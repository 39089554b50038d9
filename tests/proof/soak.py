"""Mixed load and fuzzed connections for as long as you like: `python tests/proof/soak.py --seconds 3600 --svg soak.svg`

Clients look up, send heartbeats, register (for leases of a second or two, so that many end), watch and wait, come and
go; others send random bytes and mutated requests, hang up half way, or do not read. The daemon keeps its state on the
disk. Ten times it says how much memory it has and how many files it holds open; the plot has 120 points of each. In
the end everyone leaves: then as many files must be open as in the beginning, and nothing in the log be above INFO. Ends
with status 1 where that is not so, or where the memory still grows: in the last three tenths of the time it may be a
twentieth above that in the three before. As it would grow for an hour until all is full that is remembered of what has
gone, so many instances (--fill) come and go before the time begins.
"""

import argparse
import asyncio
import contextlib
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

# Run as a program, it does not find what the tests share by itself.
sys.path.insert(0, str(Path(__file__).parent.parent))

from proof.curves import Curve, draw

SERVICES = 50
IDS = 2_000
#: Looks at the daemon.
SAMPLES = 120
SEEDS = [
    b"GET /services/s1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /heartbeat/i1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
    b'POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: 42\r\n\r\n{"service_name":"o","base_url":"http://h"}',
    b"POST /drain/i2 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET /watch HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /services?index=1&wait=1s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
]


class Daemon:
    """A daemon with its log in a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, port: int) -> None:
        self.process, self.log, self.port = process, log, port

    @classmethod
    async def start(cls, folder: Path, http: str) -> "Daemon":
        log = folder / "log"
        with log.open("w") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "registryd", "--port", "0", "--http", http, "--allow-hosts", "*",
                "--state-dir", str(folder), stderr=stream,
            )  # fmt: skip
        while not (match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", log.read_text())):
            assert process.returncode is None, log.read_text()
            await asyncio.sleep(0.02)
        return cls(process, log, int(match[1]))

    def rss(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) / 1000

    def files(self) -> int:
        """How many files it holds open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def loud_lines(self) -> list[str]:
        """The lines above INFO: but for those that say that the machine gave us no turn for a second."""
        lines = [line for line in self.log.read_text().splitlines() if " INFO " not in line]
        return [line for line in lines if "stalled seconds=" not in line]


class Load:
    """All who come and go until the time is up."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._dice = random.Random(seed)
        self.is_over = False
        self.done: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _request(self, *, is_writer: bool) -> bytes:
        """Those who write wait for the disk, so there are some who only read and send heartbeats."""
        dice = self._dice
        chance, instance = dice.random() * (1.0 if is_writer else 0.9), dice.randrange(IDS)
        if chance < 0.8:
            return b"GET /services/s%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % dice.randrange(SERVICES)
        if chance < 0.9:
            return b"POST /heartbeat/i%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % instance
        if chance < 0.97:
            body = b'{"service_name":"s%d","base_url":"http://10.0.0.1:%d","instance_id":"i%d","ttl":%d}' % (
                instance % SERVICES, instance, instance, dice.randint(1, 2),
            )  # fmt: skip
            return b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        return dice.choice(
            [
                b"GET /services HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"GET /explain/i%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % instance,
                b"DELETE /deregister/i%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % instance,
                b"GET /services/s1?index=1&wait=20ms HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ]
        )

    async def fill(self, count: int) -> None:
        """So many instances come, and go within a second or two. Many at a time, so that they share writes."""
        numbers = iter(range(count))
        await asyncio.gather(*(self._register_all(numbers) for _ in range(100)))

    async def _register_all(self, numbers: Iterator[int]) -> None:
        async with self._connection() as (reader, writer):
            for n in numbers:
                body = b'{"service_name":"f","base_url":"http://h","instance_id":"f%d","ttl":1}' % n
                writer.write(
                    b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                await self._answer(reader)

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        match = re.search(rb"Content-Length: (\d+)", head)
        assert match is not None, head
        await reader.readexactly(int(match[1]))
        assert head[9:12] in (b"200", b"404"), head

    async def reader(self) -> None:
        """Looks up and sends heartbeats."""
        await self._ask(is_writer=False)

    async def writer(self) -> None:
        """Registers and deregisters, too, and asks whatever there is to ask."""
        await self._ask(is_writer=True)

    async def _ask(self, *, is_writer: bool) -> None:
        """Asks this and that on one connection, sometimes several things at once."""
        async with self._connection() as (reader, writer):
            for _ in range(self._dice.randrange(1, 300)):
                count = self._dice.choice([1, 1, 1, 5])
                writer.write(b"".join(self._request(is_writer=is_writer) for _ in range(count)))
                for _ in range(count):
                    await self._answer(reader)
                    self.done["answers"] += 1
                if self.is_over:
                    return

    async def watcher(self) -> None:
        """Watches for a while, or watches and does not read."""
        async with self._connection() as (reader, writer):
            writer.write(b"GET /watch HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if self._dice.random() < 0.2:
                cast("asyncio.Transport", writer.transport).pause_reading()
                await asyncio.sleep(self._dice.random())
                return
            for _ in range(self._dice.randrange(200)):
                if self.is_over or not await reader.read(65536):
                    return
            self.done["watchers"] += 1

    async def fuzzer(self) -> None:
        """Sends what is not quite HTTP, and hangs up or listens."""
        dice = self._dice
        data = b"".join(dice.choice(SEEDS) for _ in range(dice.randrange(1, 4)))
        for _ in range(dice.randrange(4)):
            start = dice.randrange(len(data) + 1)
            data = data[:start] + dice.choice([b"", b"\r\n", b"\x00", b":", dice.randbytes(8)]) + data[start + 3 :]
        if dice.random() < 0.2:
            data = dice.randbytes(dice.randrange(1, 3000))
        async with self._connection() as (reader, writer):
            cut = dice.randrange(len(data) + 1)
            writer.write(data[:cut])
            await asyncio.sleep(0)
            writer.write(data[cut:])
            if dice.random() < 0.5:
                with contextlib.suppress(OSError):  # it has had enough already
                    writer.write_eof()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(65536), 0.05)
        self.done["fuzzed connections"] += 1

    async def again_and_again(self, what: Callable[[], Awaitable[None]]) -> None:
        """Does it until the time is up. That the other side hangs up is its right."""
        while not self.is_over:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await what()


class Sample(NamedTuple):
    """How the daemon was at a moment: seconds since the start, memory in MB, files that it holds open, and how many
    requests a second had been answered since the moment before."""

    seconds: float
    memory: float
    files: int
    rate: float


async def observe(daemon: Daemon, load: Load, seconds: float) -> list[Sample]:
    """Looks at it again and again, and says ten times how it is."""
    samples: list[Sample] = []
    begun, answered = time.monotonic(), 0
    for n in range(1, SAMPLES + 1):
        await asyncio.sleep(max(0.0, begun + n * seconds / SAMPLES - time.monotonic()))
        answers = load.done["answers"]
        sample = Sample(n * seconds / SAMPLES, daemon.rss(), daemon.files(), (answers - answered) / (seconds / SAMPLES))
        answered = answers
        samples.append(sample)
        if n % (SAMPLES // 10) == 0:
            print(f"{sample.seconds:>8.0f} {sample.memory:>7.1f} {sample.files:>6} {sample.rate:>8,.0f}", flush=True)
    return samples


def picture(samples: list[Sample], note: str) -> str:
    """The plot."""
    curves = [
        Curve("memory, MB", [sample.memory for sample in samples], "#1f5fbf"),
        Curve("open files", [sample.files for sample in samples], "#2e8b57"),
        Curve("answers a second", [sample.rate for sample in samples], "#d9601a"),
    ]
    return draw("registryd under mixed load", note, [sample.seconds for sample in samples], curves)


async def soak(seconds: float, http: str, seed: int, svg: Path | None, fill: int) -> bool:
    """Whether all was well in the end."""
    with tempfile.TemporaryDirectory() as folder:
        daemon = await Daemon.start(Path(folder), http)
        try:
            load = Load(daemon.port, seed)
            first = daemon.files()
            await load.fuzzer()  # the loop opens a file of its own at the first connection
            while daemon.files() > first + 1:
                await asyncio.sleep(0.05)
            files = daemon.files()
            await load.fill(fill)
            who = [load.reader] * 6 + [load.writer] * 4 + [load.watcher] * 3 + [load.fuzzer] * 3
            tasks = [asyncio.ensure_future(load.again_and_again(one)) for one in who]
            print(f"{'seconds':>8} {'MB':>7} {'files':>6} {'answers/s':>8}  seed={seed} http={http}")
            samples = await observe(daemon, load, seconds)
            load.is_over = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            failed = [task.exception() for task in tasks if not task.cancelled() and task.exception() is not None]
            for _ in range(200):  # connections that were refused are read for two seconds more
                if daemon.files() <= files:
                    break
                await asyncio.sleep(0.05)
            left, loud = daemon.files() - files, daemon.loud_lines()
        finally:
            daemon.process.terminate()
            status = await daemon.process.wait()
    memory = [sample.memory for sample in samples]
    tenth = SAMPLES // 10
    growth = statistics.median(memory[7 * tenth :]) / statistics.median(memory[4 * tenth : 7 * tenth])
    done = ", ".join(f"{count:,} {what}" for what, count in load.done.items())
    print(done)
    if svg is not None:
        svg.write_text(picture(samples, done))
    print(
        f"memory of the last part x {growth:.3f}; files left open {left}; lines above INFO {len(loud)}; exit {status}"
    )
    for line in [*loud[:10], *map(repr, failed)]:
        print(line)
    return growth < 1.05 and left <= 0 and not loud and not failed and status == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--http", choices=["auto", "front", "tornado"], default="auto")
    parser.add_argument("--fill", type=int, default=120_000, help="instances that come and go first")
    parser.add_argument("--svg", type=Path, help="file for the plot")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    asked = parser.parse_args()
    sys.exit(not asyncio.run(soak(asked.seconds, asked.http, asked.seed, asked.svg, asked.fill)))


if __name__ == "__main__":
    main()
