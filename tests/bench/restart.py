"""How soon registryd is back with all it knew: `python tests/bench/restart.py --instances 100000`

Writes a state file with so many instances, ten to a service, starts a registryd on it and kills it again (kill -9), in
rounds in which one with a new state file takes turns. Prints the time from the start of the process until the first
answer, the medians over the rounds, and checks that all instances are listed.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# As in a test, a module of the benches is imported from the folder of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.servers import SERVERS, Caller, Request, Running

from registryd.core.limits import Limits
from registryd.core.model import Change, Register
from registryd.core.state import State
from registryd.store.file import StateFile

TOGETHER = 1_000


def changes(instances: int) -> Iterator[Change]:
    """The registrations of all of them."""
    state, wall = State(default_ttl=86400.0, limits=Limits(instances=instances)), int(time.time())
    for n in range(instances):
        asked = Register(
            service_name=f"service-{n // 10}",
            base_url=f"http://10.0.{n >> 8 & 255}.{n & 255}:8000",
            instance_id=f"instance-{n}",
        )
        yield from state.commit(state.decide(asked, 0.0, wall), 0.0, wall)


def write(folder: Path, instances: int) -> None:
    """A state file with all of them."""
    folder.mkdir()
    file = StateFile(folder)
    file.open()
    there = list(changes(instances))
    for first in range(0, instances, TOGETHER):
        file.write(there[first : first + TOGETHER], first + TOGETHER)
    file.close()


def started(folder: Path, instances: int) -> float:
    """Seconds until a registryd on this folder answers; it is killed again."""
    server = next(server for server in SERVERS if server.name == "stored")
    begun = time.perf_counter()
    with Running(server, folder, max(os.sched_getaffinity(0)), {}) as running:
        took = time.perf_counter() - begun
        with Caller(running.port) as caller:
            (status,) = caller.call(Request("GET", "/status"))
            assert f'"instances":{instances},'.encode() in status, status
        running.kill()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="registryd-restart-")))
        full, new = where / "full", where / "new"
        write(full, asked.instances)
        new.mkdir()
        rounds = [(started(new, 0), started(full, asked.instances)) for _ in range(asked.rounds)]
    without, with_all = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"{'instances':>12} {'answers after':>14}")
    print(f"{0:>12,} {without:>12.2f} s")
    print(f"{asked.instances:>12,} {with_all:>12.2f} s   {(with_all - without) / asked.instances * 1e6:.1f} µs each")


if __name__ == "__main__":
    main()
