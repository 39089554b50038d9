"""What a look-up in the client's local copy of a service costs: `python tests/bench/lookup.py`

Each figure is the median of several rounds, and stands beside the cost of one look-up in a dictionary, measured in the
same run, in the processor's time; at the end, what it costs to take a change in.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

from registryd.client.choices import Policy
from registryd.client.discovery import LocalCopy

ROUNDS = 7
LOOKUPS = 10_000
CHANGES = 20


def a_copy(count: int, policy: Policy) -> LocalCopy:
    """A copy of a service with so many instances."""
    copy = LocalCopy("users", policy, "", time.monotonic, random.Random(7))
    copy.opened("http://localhost:8006", time.monotonic(), 1)
    copy.feed(event("snapshot", 1, {"instances": [an_instance(n) for n in range(count)]}), time.monotonic())
    return copy


def an_instance(n: int) -> dict[str, object]:
    return {
        "instance_id": f"users-{n}",
        "service_name": "users",
        "base_url": f"http://10.0.0.1:{n}",
        "weight": n % 5 + 1,
    }


def event(kind: str, index: int, data: object) -> bytes:
    return f"event: {kind}\nid: {index}\ndata: {json.dumps(data)}\n\n".encode()


def cost(work: Callable[[int], object], count: int) -> float:
    """Microseconds per piece of work, the loop's own cost taken off: the median over the rounds."""
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for n in range(count):
            work(n)
        ended = time.process_time()
        for n in range(count):
            nothing(n)
        rounds.append((2 * ended - begun - time.process_time()) / count * 1e6)
    return statistics.median(rounds)


def nothing(_n: int) -> None:
    """What a call costs that does nothing."""


def measure(count: int) -> None:
    turns, weights, least = (a_copy(count, policy) for policy in ("round_robin", "weighted_random", "least_pending"))
    table = {f"key-{n}": n for n in range(count)}
    keys = [f"key-{n % count}" for n in range(LOOKUPS)]

    def acquire(_n: int) -> None:
        with least.acquire():
            pass

    def change(n: int) -> None:
        turns.feed(event("updated", 2 + n, an_instance(n % count)), time.monotonic())
        turns.pick()

    unit = cost(lambda n: table.get(keys[n]), LOOKUPS)
    works: list[tuple[str, Callable[[int], object], int]] = [
        ("instances", lambda n: turns.instances, LOOKUPS),
        ("age", lambda n: turns.age, LOOKUPS),
        ("pick, round robin", lambda n: turns.pick(), LOOKUPS),
        ("pick, weighted random", lambda n: weights.pick(), LOOKUPS),
        ("pick, least pending", lambda n: least.pick(), LOOKUPS),
        ("acquire and release", acquire, LOOKUPS),
        ("pick by key", lambda n: turns.pick(keys[n]), LOOKUPS),
        ("a change", change, CHANGES),
    ]
    for name, work, times in works:
        work(0)
        took = cost(work, times)
        print(f"{count:>9,}  {name:<24} {took:>10.2f} {took / unit:>12.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, nargs="+", default=[10, 1_000], help="how many the service has")
    print(f"{'instances':>9}  {'what':<24} {'µs each':>10} {'× dict.get':>12}")
    for count in parser.parse_args().instances:
        measure(count)


if __name__ == "__main__":
    main()
