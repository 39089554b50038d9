"""What a million instances cost: `python tests/bench/scale.py --instances 1000000`

Memory of the process per instance; a lookup of a service with ten instances, beside the same with ten instances in all;
and the longest step in which nobody else gets a turn: while nothing happens but sweeps and garbage collections, and
while 100,000 leases end at once, with lookups in between that are checked. Each step is timed by the clock and by the
processor: on a shared machine the difference is other people's.
"""

import argparse
import asyncio
import gc
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from registryd.api.context import Context, Daemon, UnderWay
from registryd.api.hosts import Hosts
from registryd.api.hot import HotCalls
from registryd.api.reader import Reader
from registryd.auth import Access, new_token, read
from registryd.clock import LeaseClock
from registryd.core.limits import Limits
from registryd.core.model import Register
from registryd.core.state import State
from registryd.feed import Feed
from registryd.front.exchange import Peer
from registryd.front.table import Told
from registryd.logs.changes import ChangeLog, Gate
from registryd.logs.lines import Lines, plain
from registryd.overload import Overload
from registryd.registry import Registry
from registryd.store.base import MemoryStore

LOOKUPS = 50_000
NOTHING, NOBODY = Told("", None), Peer("", "http")
ROUNDS = 5


class LaterClock(LeaseClock):
    """A lease clock that can be put forward."""

    later = 0.0

    def now(self) -> float:
        return super().now() + self.later


def rss() -> int:
    """Resident memory of this process, in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


class Filled:
    """A registry with so many instances, ten to a service, as they come over HTTP. The last `ending` end first; with
    `lengths`, each of those has a lease of a length of its own."""

    def __init__(self, log: TextIO, instances: int, ending: int = 0, *, lengths: bool = False) -> None:
        limits = Limits(instances=max(instances, 1))
        self.clock = LaterClock()
        feed = Feed(1)
        lines = Lines(log, plain)
        feed.subscribe(ChangeLog(lines, Gate(lines), "info").note)
        self.registry = Registry(State(default_ttl=86400.0, limits=limits), MemoryStore(1), feed, self.clock)
        reader = Reader(limits)
        daemon = Daemon("", 0, 0.0, 0.0, "memory", float, lambda: (0, 0.0), int, list, list)
        self.access = Access()
        self.hot = HotCalls(Context(self.registry, reader, daemon, UnderWay(), self.access, Hosts(), Overload(limits)))
        gc.collect()
        gc.freeze()  # as the daemon does
        self.before = rss()
        for n in range(instances):
            ttl = (60 + n / 1e6 * lengths) if n >= instances - ending else 86400
            body = (
                f'{{"service_name":"service-{n // 10}","instance_id":"instance-{n}","ttl":{ttl},'
                f'"base_url":"http://10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:80"}}'
            )
            self.registry.register_at_once(reader.body(Register, body.encode()))
            if n % 100 == 99:  # as at the end of a turn of the loop
                lines.flush()
        gc.collect()
        self.bytes_each = (rss() - self.before) / max(instances, 1)

    def let_in_by_token(self) -> Told:
        """Access control with a thousand tokens; one of them."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "auth.toml"
            token = new_token(str(path), "bench", ["read"], ["service-*"])
            others = (f'[tokens.t{n}]\nhash = "sha256:{n:016x}{0:048x}"\nallow = ["read"]\n' for n in range(999))
            path.write_text(path.read_text() + "".join(others))
            self.access.take(read(str(path)))
        return Told("", f"Bearer {token}")

    def look_up(self, names: Iterable[bytes], told: Told = NOTHING) -> float:
        """Microseconds for a lookup, the whole answer included: the best round, as the rest is other people's."""
        rounds = []
        names = list(names)
        for _ in range(ROUNDS):
            self.clock.beat()
            begun = time.perf_counter()
            for name in names:
                self.hot.lookup(name, b"", NOBODY, told)
            rounds.append((time.perf_counter() - begun) / len(names) * 1e6)
        return min(rounds)


class Steps:
    """The longest step of the loop, in milliseconds: by the clock and by the processor."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    async def watch(self, goes_on: Callable[[], bool], do: Callable[[], object]) -> None:
        """Gives everyone a turn and does something itself, for as long as it goes on."""
        while goes_on():
            wall, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0)
            do()
            self.wall = max(self.wall, (time.perf_counter() - wall) * 1e3)
            self.cpu = max(self.cpu, (time.thread_time() - cpu) * 1e3)

    def __str__(self) -> str:
        return f"{self.wall:>8.1f} {self.cpu:>8.1f}"


async def expiry(filled: Filled, instances: int, ending: int) -> tuple[Steps, int]:
    """Lets so many leases end at once; gives back the steps, and how many lookups were right in between."""
    registry, hot = filled.registry, filled.hot
    dice = random.Random(7)
    first = (instances - ending) // 10
    looked = 0

    def look() -> None:
        nonlocal looked
        gone, there = dice.randrange(first, instances // 10), dice.randrange(first)
        assert hot.lookup(b"service-%d" % gone, b"", NOBODY, NOTHING) is None, "nobody is listed whose lease has ended"
        answer = hot.lookup(b"service-%d" % there, b"", NOBODY, NOTHING)
        assert answer is not None
        assert answer.endswith(b'"count":10}\n')
        looked += 2

    steps = Steps()
    filled.clock.later = 120.0
    begun = time.perf_counter()
    registry.sweep()
    steps.wall = (time.perf_counter() - begun) * 1e3
    await steps.watch(lambda: registry.is_behind, look)
    assert registry.tally().instances == instances - ending
    return steps, looked


async def quiet(filled: Filled, instances: int) -> Steps:
    """Sweeps and garbage collections while heartbeats come."""
    dice, rounds = random.Random(7), iter(range(2_000))

    def work() -> None:
        for _ in range(20):
            filled.registry.renew(f"instance-{dice.randrange(instances)}")
        filled.registry.sweep()
        if next(rounds, None) is not None and dice.random() < 0.01:
            gc.collect()

    steps = Steps()
    await steps.watch(lambda: next(rounds, None) is not None, work)
    return steps


async def measure(log: TextIO, instances: int, ending: int) -> None:
    few = Filled(log, 10)
    alone = few.look_up([b"service-0"] * LOOKUPS)
    shown = few.look_up([b"service-0"] * LOOKUPS, few.let_in_by_token())
    del few
    filled = Filled(log, instances, ending)
    dice = random.Random(7)
    services = range((instances - ending) // 10)
    same = filled.look_up([b"service-0"] * LOOKUPS)
    others = filled.look_up([b"service-%d" % dice.choice(services) for _ in range(LOOKUPS)])
    filled.look_up(b"service-%d" % n for n in range(instances // 10))
    print(f"{instances:,} instances: {filled.bytes_each:.0f} bytes each, as the process has grown")
    print(f"and {(rss() - filled.before) / instances:.0f}, after each service has been looked up")
    print(f"lookup of ten instances, of ten in all:            {alone:>8.2f} µs")
    print(f"the same, of someone who shows a token:            {shown:>8.2f} µs, {shown - alone:+.2f} µs")
    print(f"lookup of ten instances, always the same service:  {same:>8.2f} µs, x {same / alone:.2f}")
    print(f"lookup of ten instances, any service:              {others:>8.2f} µs, x {others / alone:.2f}")
    print(f"{'longest step in ms':<50} {'clock':>8} {'CPU':>8}")
    print(f"{'sweeps, collections and heartbeats':<50} {await quiet(filled, instances - ending)}")
    steps, looked = await expiry(filled, instances, ending)
    print(f"{f'{ending:,} leases end at once':<50} {steps}   {looked:,} lookups in between, all exact")
    del filled
    filled = Filled(log, ending * 2, ending, lengths=True)
    steps, looked = await expiry(filled, ending * 2, ending)
    print(f"{'the same, all leases of different lengths':<50} {steps}   {looked:,} lookups in between, all exact")


def main() -> None:
    logging.disable()  # between two rounds nobody asks the clock for a while
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--ending", type=int, default=100_000)
    asked = parser.parse_args()
    with open(os.devnull, "w") as log:
        asyncio.run(measure(log, asked.instances, asked.ending))


if __name__ == "__main__":
    main()
