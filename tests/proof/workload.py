"""Clients that contend for a few ids of a few services, and write down what they send and get; and the lives of the
registry that they ask.

Each goes on without waiting for the others. Now and then an id is left alone for longer than its lease: nobody sends a
heartbeat for it, while lookups go on. One id of each service has a lease that no run outlives.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.traffic import CLOSE, Answer, Wire
from process import RunningDaemon
from proof.checker import Checker
from proof.history import Book, Kind, Life, Operation, Outcome, Registration

#: Seconds after which a client gives up.
PATIENCE = 3.0
#: Seconds between two answers of `/status`.
STATUS_EVERY = 0.05
#: How likely a client rests after an answer, and for how many seconds at most.
RESTS, REST = 0.25, 0.03
#: Ids of each service, the first with a lease that lasts; the lengths of the other leases.
IDS = 3
LASTING = 86_400.0
TTLS = (1.0, 1.2, 1.5)
#: How likely an id is left alone after a request, and for how many seconds at least and at most.
LEFT_ALONE = 0.005
ALONE = (1.0, 2.5)
KINDS: list[Kind] = ["lookup", "heartbeat", "register", "deregister"]
WEIGHTS = (50, 25, 15, 10)
#: Answers that are no `ok` and none that this load could not do without.
REFUSALS: dict[str, Outcome] = {
    "unknown_instance": "unknown_instance",
    "stale_generation": "stale_generation",
    "store_unavailable": "store_unavailable",
}


class Where(NamedTuple):
    """A life of the registry, and where it listens."""

    life: int
    host: str
    port: int


class Draft(NamedTuple):
    """What a client is about to ask."""

    kind: Kind
    service: str = ""
    instance_id: str = ""
    ttl: float = 0.0
    generation: int | None = None

    def request(self, number: int) -> tuple[str, str, object]:
        """Its method, path and body."""
        query = "" if self.generation is None else f"?generation={self.generation}"
        match self.kind:
            case "register":
                body = {"service_name": self.service, "base_url": f"http://h/{number}", "ttl": self.ttl}
                return "POST", "/register", body | {"instance_id": self.instance_id}
            case "heartbeat":
                return "POST", f"/heartbeat/{self.instance_id}{query}", None
            case "deregister":
                return "DELETE", f"/deregister/{self.instance_id}{query}", None
            case "lookup":
                return "GET", f"/services/{self.service}", None
            case "status":
                return "GET", "/status", None


class Workload:
    """All clients, and what they have written down."""

    def __init__(self, seed: int, *, clients: int = 8, services: int = 2) -> None:
        self.dice = random.Random(seed)
        self.clients = clients
        #: Whom they ask; nobody while there is no registry.
        self.where: Where | None = None
        self.operations: list[Operation] = []
        self.outcomes: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._ids = {f"s{n}": [f"s{n}-{letter}" for letter in "abcdefgh"[:IDS]] for n in range(services)}
        self.services = list(self._ids)
        #: Until when ids are left alone; the next that an id is sent after that is a heartbeat.
        self._alone: dict[str, float] = {}
        #: The last generation that anyone was told of, by id.
        self._generations: Counter[str] = Counter()
        #: The connections that are open.
        self._wires: set[Wire] = set()

    def cut(self) -> int:
        """Resets all connections, whatever is under way on them; gives back how many there were."""
        wires, self._wires = self._wires, set()
        for wire in wires:
            wire.reset()
        return len(wires)

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Lets all ask until it is over, and then each service once more, and for the last status."""
        asking = [asyncio.ensure_future(self._client(n + 1, is_over)) for n in range(self.clients)]
        watching = asyncio.ensure_future(self._watch_status())
        try:
            await asyncio.gather(*asking)
        finally:
            for task in [*asking, watching]:
                task.cancel()
            results = await asyncio.gather(*asking, watching, return_exceptions=True)
        failed = [result for result in results if isinstance(result, Exception)]
        if failed:
            raise failed[0]
        for service in self.services:
            await self._ask_once(Draft("lookup", service))
        for _ in range(2):
            await self._ask_once(Draft("status"))

    async def _client(self, client: int, is_over: Callable[[], bool]) -> None:
        """Asks again and again, on a connection that is kept as long as it lasts."""
        wire: Wire | None = None
        life = 0
        while not is_over():
            where = self.where
            if wire is not None and (where is None or where.life != life or wire not in self._wires):
                self._let_go(wire)
                wire = None
            if wire is None and where is not None:
                wire, life = await self._open(where), where.life
            if wire is not None and not await self._ask(wire, client, life, self._choose()):
                self._let_go(wire)
                wire = None
            if wire is None or self.dice.random() < RESTS:
                await asyncio.sleep(self.dice.uniform(0, REST))
        if wire is not None:
            self._let_go(wire)

    def _let_go(self, wire: Wire) -> None:
        if wire in self._wires:
            self._wires.discard(wire)
            wire.reset()

    async def _watch_status(self) -> None:
        while True:
            await self._ask_once(Draft("status"))
            await asyncio.sleep(STATUS_EVERY)

    async def _ask_once(self, draft: Draft) -> None:
        """On a connection of its own."""
        where = self.where
        wire = None if where is None else await self._open(where)
        if wire is not None and where is not None:
            try:
                await self._ask(wire, 0, where.life, draft)
            finally:
                self._let_go(wire)

    async def _open(self, where: Where) -> Wire | None:
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(PATIENCE):
                wire = await Wire.open(where.host, where.port)
            self._wires.add(wire)
            return wire
        return None

    def _choose(self) -> Draft:
        dice, now = self.dice, time.monotonic()
        service = dice.choice(self.services)
        instance_id = dice.choice(self._ids[service])
        (kind,) = dice.choices(KINDS, WEIGHTS)
        alone = self._alone.get(instance_id, 0.0)
        if kind == "lookup" or now < alone:
            return Draft("lookup", service)
        if alone:
            del self._alone[instance_id]
            kind = "heartbeat"  # which must find out if the lease has ended
        elif dice.random() < LEFT_ALONE:
            self._alone[instance_id] = now + dice.uniform(*ALONE)
        if kind == "register":
            is_lasting = instance_id == self._ids[service][0]
            return Draft(kind, service, instance_id, LASTING if is_lasting else dice.choice(TTLS))
        known = self._generations[instance_id]
        generation = dice.choice([None, None, known or None, max(1, known - 1)])
        return Draft(kind, service, instance_id, generation=generation)

    async def _ask(self, wire: Wire, client: int, life: int, draft: Draft) -> bool:
        """Asks, and writes down what came of it; gives back whether there was an answer."""
        number = next(self._numbers)
        method, path, body = draft.request(number)
        headers = CLOSE if client == 0 else {}
        answer: Answer | None = None
        invoked = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                await wire.send(method, path, body, **headers)
                answer = await wire.answer()
        except (OSError, EOFError):
            self._let_go(wire)
            await asyncio.sleep(0)  # then it is closed
        finally:  # even one who is sent home in between has asked
            ended = time.monotonic()
            asked = Operation(number=number, client=client, life=life, invoked=invoked, ended=ended, **draft._asdict())
            self._note(asked if answer is None else _answered(asked, answer))
        return answer is not None

    def _note(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.outcomes[f"{operation.kind} {operation.outcome}"] += 1
        if operation.found is not None:
            self._generations[operation.instance_id] = operation.found.generation


def _answered(asked: Operation, answer: Answer) -> Operation:
    """An operation with what its answer says."""
    what, body = asked.kind, answer.body
    fields = {name: getattr(asked, name) for name in asked.__struct_fields__}
    if answer.status != 200:
        assert body["code"] in REFUSALS, f"{asked}: {body}"
        return Operation(**fields | {"outcome": REFUSALS[body["code"]]})
    told: dict[str, object] = {"outcome": "ok"}
    if what in ("register", "deregister"):
        told["found"] = _registration(body)
    elif what in ("lookup", "status"):
        told["index"] = int(answer.headers["registry-index"])
    if what == "lookup":
        listed = told["listed"] = {one["instance_id"]: _registration(one) for one in body["instances"]}
        assert body["count"] == len(listed) == len(body["instances"]), f"{asked}: {body}"
    if what == "status":
        told["stalled"] = body["leases"]["stalled_seconds"]
    return Operation(**fields | told)


def _registration(instance: dict[str, object]) -> Registration:
    generation = instance["generation"]
    assert isinstance(generation, int)
    return Registration(int(str(instance["base_url"]).rpartition("/")[2]), generation)


class Trial:
    """A registry and its lives, under the eyes of a workload and a checker. `start` starts one: a life of this
    number; all that is written down is kept in the book."""

    def __init__(self, workload: Workload, start: Callable[[int], RunningDaemon], book: Book) -> None:
        self.workload = workload
        self.checker = Checker()
        self.lives: list[Life] = []
        #: What the lives that have ended have written to their logs.
        self.lines: list[str] = []
        self._start = start
        self._book = book
        self._stack = contextlib.ExitStack()
        self.daemon: RunningDaemon

    async def start(self) -> None:
        """Begins a life."""
        number, spawned = len(self.lives) + 1, time.monotonic()
        self.daemon = self._stack.enter_context(await asyncio.to_thread(self._start, number))
        self.lives.append(Life(number, spawned, time.monotonic()))
        parts = urlsplit(self.daemon.url)
        self.workload.where = Where(number, parts.hostname or "", parts.port or 0)

    async def end(self, number: int) -> int:
        """Ends a life by a signal; gives back the exit status."""
        self.workload.where = None
        self.daemon.popen.send_signal(number)
        status = await asyncio.to_thread(self.daemon.wait)
        self.lives[-1].dead = time.monotonic()
        self.lines += self.daemon.lines
        self._stack.close()
        return status

    def check(self) -> None:
        """Judges what has been written down since the last time. Raises Violation, Undecided."""
        operations, self.workload.operations = self.workload.operations, []
        self._book.add(operations)
        self.checker.feed(operations, self.lives)

    def close(self) -> None:
        """Ends it, however far it has come."""
        self._stack.close()
        self._book.add(self.workload.operations)
        self._book.close(self.lives)

    def summary(self) -> str:
        """What was asked, what came of it, and what was checked."""
        checker, outcomes = self.checker, self.workload.outcomes
        lines = [f"{count:>9,} {what}" for what, count in sorted(outcomes.items())]
        lives = f"{len(self.lives)} lives of the registry" if len(self.lives) > 1 else "one life of the registry"
        lines.append(
            f"{outcomes.total():,} operations of {self.workload.clients} clients on {len(self.workload.services)} "
            f"services of {IDS} ids, {lives}"
        )
        lines.append(
            f"explained by one order for each service: {checker.explained:,} answers (at most "
            f"{checker.most_situations} situations at a time); indices compared: {checker.compared:,}"
        )
        return "\n".join(lines)
