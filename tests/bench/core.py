"""What a heartbeat and a sweep cost, with few leases and with a million: `python tests/bench/core.py`

Each figure is the median of several rounds, and stands beside the cost of one look-up in a dictionary of the same size,
measured in the same run: the ratio says more than the time, which depends on the machine and on who else is using it.
"""

import argparse
import gc
import logging
import random
import statistics
import time
from collections.abc import Callable

from registryd.api.reader import Reader
from registryd.api.render import json_bytes
from registryd.api.shapes import RenewedAllShape
from registryd.api.v1 import InstanceIds
from registryd.clock import LeaseClock
from registryd.core.limits import Limits
from registryd.core.model import Register
from registryd.core.state import State
from registryd.feed import Feed
from registryd.registry import Registry
from registryd.store.base import MemoryStore

ROUNDS = 7
HEARTBEATS = 100_000
SWEEPS = 1_000
WALL = int(time.time())


def filled(instances: int) -> tuple[State, list[str]]:
    """A state with so many instances, ten to a service, and their ids in random order."""
    state = State(default_ttl=86400.0, limits=Limits(instances=instances))
    ids = [f"instance-{n}" for n in range(instances)]
    for n, instance_id in enumerate(ids):
        command = Register(
            service_name=f"service-{n // 10}",
            base_url=f"http://10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:8000",
            instance_id=instance_id,
        )
        state.commit(state.decide(command, time.monotonic(), WALL), time.monotonic(), WALL)
    random.Random(7).shuffle(ids)
    return state, ids


def cost(clock: LeaseClock, work: Callable[[], None], count: int) -> float:
    """Microseconds per piece of work: the median over the rounds."""
    rounds = []
    for _ in range(ROUNDS):
        clock.beat()
        begun = time.perf_counter()
        work()
        rounds.append((time.perf_counter() - begun) / count * 1e6)
    return statistics.median(rounds)


def measure(instances: int) -> None:
    state, ids = filled(instances)
    clock = LeaseClock()
    registry = Registry(state, MemoryStore(1), Feed(1), clock)
    gc.collect()
    gc.freeze()
    table = dict.fromkeys(ids, 0)
    dice = random.Random(7)
    some = [dice.choice(ids) for _ in range(HEARTBEATS)]

    def look_up() -> None:
        for instance_id in some:
            table.get(instance_id)

    def renew_in_core() -> None:
        lease, renew, now = state.lease, state.renew, time.monotonic()
        for instance_id in some:
            renew(lease(instance_id), now, WALL)

    def heartbeat() -> None:
        renew = registry.renew
        for instance_id in some:
            renew(instance_id)

    def sweep() -> None:
        for _ in range(SWEEPS):
            registry.sweep()

    reader, batches = (
        Reader(Limits()),
        [json_bytes({"instance_ids": some[n : n + 1000]}) for n in range(0, 20_000, 1000)],
    )

    def heartbeats() -> None:
        for batch in batches:
            json_bytes(RenewedAllShape(*registry.renew_all(reader.body(InstanceIds, batch).instance_ids)[:2]))

    unit = cost(clock, look_up, HEARTBEATS)
    for name, work, count in [
        ("heartbeat, core", renew_in_core, HEARTBEATS),
        ("heartbeat, registry", heartbeat, HEARTBEATS),
        ("sweep, nothing ended", sweep, SWEEPS),
        ("1,000 heartbeats in one", heartbeats, len(batches)),
    ]:
        took = cost(clock, work, count)
        print(f"{instances:>10,}  {name:<24} {took:>10.2f} {took / unit:>12.1f}")
    end_all(registry, state, instances)


def end_all(registry: Registry, state: State, instances: int) -> None:
    """The other extreme: every lease ends at once."""
    later = time.monotonic() + 2 * 86400  # further than any lease
    begun = time.perf_counter()
    state.commit(state.ended(later, WALL), later, WALL)
    took = (time.perf_counter() - begun) / instances * 1e6
    print(f"{instances:>10,}  {'sweep, per ended lease':<24} {took:>10.2f} {'':>12}")
    assert registry.tally().instances == 0


def main() -> None:
    logging.disable()  # between two measurements the lease clock finds that nobody asked it for a while
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, nargs="+", default=[1_000, 1_000_000], help="how many leases to hold")
    print(f"{'leases':>10}  {'what':<24} {'µs each':>10} {'× dict.get':>12}")
    for instances in parser.parse_args().instances:
        measure(instances)


if __name__ == "__main__":
    main()
