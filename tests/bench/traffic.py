"""Traffic that notices a restart: `python tests/bench/traffic.py URL`, until SIGTERM

Then a line of JSON says how it went.
A thousand requests a second come, whether or not those before were answered: half on connections of their own, half on
ones that are kept. Instances register, send heartbeats, are looked up and leave again, while others watch them by a
stream and by long polls. Every answer has to come, be the right one, and have no index below one that had been
seen before it was asked for. In the end the registry has to have exactly what was registered and has not left, and the
watchers have to know exactly that.

It needs the standard library alone, so that it runs where nothing is installed.
"""

import asyncio
import contextlib
import json
import random
import signal
import socket
import struct
import sys
import urllib.parse
from collections import Counter
from typing import Any, NamedTuple, Self

RATE = 1_000.0
SERVICES = 5
#: Clients that keep a connection, each.
KEEPING = 50
#: Seconds that an answer may take, a restart in between included.
PATIENCE = 20.0
WAIT = "20s"
CLOSE = {"Connection": "close"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Wire:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        return cls(*await asyncio.open_connection(host, port, limit=2**24))

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> None:
        raw = b"" if body is None else json.dumps(body).encode()
        headers |= {"Host": "localhost", "Content-Length": str(len(raw))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {headers[name]}" for name in headers)]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + raw)
        await self._writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in headers.items()}

    async def answer(self) -> Answer:
        status, headers = await self.head()
        raw = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(status, headers, json.loads(raw) if raw else None)

    async def chunk(self) -> bytes:
        """The next chunk of a stream; empty at its end."""
        size = int(await self._reader.readline(), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    @property
    def was_closed(self) -> bool:
        """Whether the server has closed it, between two requests."""
        return self._reader.at_eof() or self._writer.is_closing()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Closes it at once, with a reset: what has not been sent never will be."""
        with contextlib.suppress(OSError):  # the other side may have been first
            self._writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._writer.transport.abort()


class Watcher:
    """Knows the instances of one service by what it was told."""

    def __init__(self, service_name: str) -> None:
        self.service_name = service_name
        self.ids: set[str] = set()
        self.index = 0
        self.streams = 0

    def take(self, event: str, index: int, data: Any) -> None:
        if event == "snapshot":
            assert index >= self.index, f"a snapshot of {index} after {self.index}"
            self.ids = {instance["instance_id"] for instance in data["instances"]}
        else:
            assert index > self.index, f"{event} {index} after {self.index}"
            getattr(self.ids, "add" if event in {"registered", "updated"} else "discard")(data["instance_id"])
        self.index = index


class Traffic:
    """All that goes on, and how it went."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._dice = random.Random(5)
        #: The clients that keep a connection, the one that has waited longest first, each with its connection.
        self._resting: asyncio.Queue[Wire | None] = asyncio.Queue()
        for _ in range(KEEPING):
            self._resting.put_nowait(None)
        #: What is registered: those for which the answer has come, and nobody else is about to do something with.
        self.there: set[str] = set()
        self.count = 0
        #: The highest index seen, by service.
        self.seen: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.watchers = [Watcher(f"s{n}") for n in range(SERVICES)]
        self.is_over = asyncio.Event()

    async def run(self) -> dict[str, Any]:
        following = [asyncio.create_task(self._follow(watcher)) for watcher in self.watchers]
        following.append(asyncio.create_task(self._poll("s0")))
        asking: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        begin, begun = loop.time(), 0
        while not self.is_over.is_set():
            while begun < (loop.time() - begin) * RATE:
                task = asyncio.create_task(self._ask("new" if begun % 2 else "kept"))
                asking.add(task)
                task.add_done_callback(asking.discard)
                begun += 1
            await asyncio.sleep(0.005)
        await asyncio.gather(*asking)
        await self._compare()
        for task in following:
            task.cancel()
        for result in await asyncio.gather(*following, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                self.failures.append(f"watching: {result!r}")
        return {
            "answers": self.answers,
            "keeping": KEEPING,
            "seconds": loop.time() - begin,
            "streams": min(watcher.streams for watcher in self.watchers),
            "failures": len(self.failures),
            "first_failures": self.failures[:10],
        }

    async def _ask(self, kind: str) -> None:
        what, instance_id = self._choose()
        service_name = service_of(instance_id)
        description = {"service_name": service_name, "base_url": "http://h", "instance_id": instance_id, "ttl": 3600}
        request: tuple[Any, ...] = {
            "register": ("POST", "/register", description),
            "heartbeat": ("POST", f"/heartbeat/{instance_id}"),
            "lookup": ("GET", f"/services/{service_name}"),
            "deregister": ("DELETE", f"/deregister/{instance_id}"),
        }[what]
        seen = self.seen[service_name]
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await (self._on_kept_connection(*request) if kind == "kept" else self._once(*request))
            self._judge(what, instance_id, answer, seen)
        except (OSError, EOFError, ValueError, AssertionError) as error:
            self.failures.append(f"{what} {instance_id} on a {kind} connection: {error!r}")
            return
        self.answers[kind] += 1
        self.answers[what] += 1

    async def _once(self, *request: Any) -> Answer:
        """On a connection of its own."""
        wire = await Wire.open(*self._address)
        await wire.send(*request, **CLOSE)
        answer = await wire.answer()
        wire.close()
        return answer

    async def _on_kept_connection(self, *request: Any) -> Answer:
        """On the connection of a client that has one; on a new one when the server has closed it."""
        wire = await self._resting.get()
        try:
            if wire is not None and wire.was_closed:
                wire.close()
                wire = None
            if wire is None:
                self.answers["connections"] += 1
                wire = await Wire.open(*self._address)
            await wire.send(*request)
            answer = await wire.answer()
        except BaseException:
            self._resting.put_nowait(None)
            raise
        self._resting.put_nowait(None if answer.headers.get("connection") == "close" else wire)
        return answer

    def _choose(self) -> tuple[str, str]:
        chance = self._dice.random()
        if chance < 0.1 or not self.there:
            self.count += 1
            return "register", f"s{self.count % SERVICES}-{self.count}"
        instance_id = self._dice.choice(sorted(self.there))
        if chance < 0.2:
            self.there.discard(instance_id)
            return "deregister", instance_id
        if chance < 0.5:
            self.there.discard(instance_id)  # until the heartbeat is answered nobody takes it away
            return "heartbeat", instance_id
        return "lookup", instance_id

    def _judge(self, what: str, instance_id: str, answer: Answer, seen: int) -> None:
        assert answer.status == 200, answer
        if what == "lookup":
            index = int(answer.headers["registry-index"])
            assert index >= seen, f"index {index} after {seen}"
            service_name = service_of(instance_id)
            self.seen[service_name] = max(self.seen[service_name], index)
        elif what != "deregister":
            self.there.add(instance_id)

    async def _follow(self, watcher: Watcher) -> None:
        """Watches, and again from where it was when the stream has ended."""
        while True:
            wire = await Wire.open(*self._address)
            since = {"Last_Event_ID": str(watcher.index)} if watcher.index else {}
            await wire.send("GET", f"/watch?service={watcher.service_name}", **since)
            status, _ = await wire.head()
            assert status == 200, status
            watcher.streams += 1
            rest = b""
            while chunk := await wire.chunk():
                *events, rest = (rest + chunk).split(b"\n\n")
                for event in events:
                    fields = dict(
                        line.split(": ", 1) for line in event.decode().split("\n") if not line.startswith(":")
                    )
                    if fields:
                        watcher.take(fields["event"], int(fields["id"]), json.loads(fields["data"]))
            wire.close()

    async def _poll(self, service_name: str) -> None:
        """Waits for changes, one long poll after the other."""
        index = 0
        while True:
            answer = await self._once("GET", f"/services/{service_name}?index={index}&wait={WAIT}")
            assert answer.status == 200, answer
            was, index = index, int(answer.headers["registry-index"])
            assert index >= was, f"index {index} after {was}"
            self.answers["long polls"] += 1

    async def _compare(self) -> None:
        """Holds what the registry has, and what the watchers know, against what was answered."""
        for watcher in self.watchers:
            answer = await self._once("GET", f"/services/{watcher.service_name}")
            listed = {instance["instance_id"] for instance in answer.body["instances"]}
            known = {instance_id for instance_id in self.there if service_of(instance_id) == watcher.service_name}
            if listed != known:
                self.failures.append(f"lost {sorted(known - listed)}, too many {sorted(listed - known)}")
            try:
                async with asyncio.timeout(PATIENCE):
                    while watcher.ids != listed:
                        await asyncio.sleep(0.01)
            except TimeoutError:
                self.failures.append(f"a watcher of {watcher.service_name} knows other instances than there are")


def service_of(instance_id: str) -> str:
    return instance_id.partition("-")[0]


async def main(url: str) -> dict[str, Any]:
    parts = urllib.parse.urlsplit(url)
    traffic = Traffic(parts.hostname or "", parts.port or 80)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, traffic.is_over.set)
    return await traffic.run()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1]))) + "\n")
