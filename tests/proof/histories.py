"""Records what many clients see at the same time, and checks it: `python tests/proof/histories.py --seconds 600`

Clients contend for a few ids of a real registryd on 127.0.0.1, whose state is on the disk, and leave some alone, so
that leases end. What they have seen is checked every few seconds: whether some order of one registry explains it, as
checker.py says. Ends with status 1 and the operations that no order explains where there are such; --out writes all of
them, a line of JSON each. The seed is that of the clients' choices; how they meet is up to the machine.
"""

import argparse
import asyncio
import functools
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# As in a test, what is shared is imported from the folder of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))

from process import RunningDaemon
from proof.checker import Undecided, Violation
from proof.history import Book
from proof.workload import Trial, Workload

#: Seconds between two checks.
ROUND = 5.0


def has_come(moment: float) -> bool:
    return time.monotonic() >= moment


async def record(trial: Trial, seconds: float, *, rounds: float = ROUND, kill: bool = False) -> None:
    """Records for so many seconds, and checks after each round; with `kill` each but the last ends with a kill -9 amid
    all that is under way. Raises Violation, Undecided."""
    end = time.monotonic() + seconds
    await trial.start()
    while (now := time.monotonic()) < end:
        running = asyncio.ensure_future(trial.workload.run(functools.partial(has_come, min(now + rounds, end))))
        if kill and now + rounds < end:
            await asyncio.sleep(rounds * 0.8)
            await trial.end(signal.SIGKILL)
            await trial.start()
        await running
        trial.check()


def prove(
    folder: Path,
    seed: int,
    seconds: float,
    argv: Sequence[str] | None,
    out: Path | None,
    *,
    kill: bool,
    rounds: float = ROUND,
) -> bool:
    """Records and checks; prints how it went, and gives back whether all is explained. `argv` starts the registry."""

    def start(life: int) -> RunningDaemon:
        return RunningDaemon(folder, "--state-dir", str(folder), "--http", "front", argv=argv)

    trial = Trial(Workload(seed), start, Book(out))
    try:
        asyncio.run(record(trial, seconds, rounds=rounds, kill=kill))
        status = asyncio.run(trial.end(signal.SIGTERM))
    except (Violation, Undecided) as found:
        print(found)
        return False
    finally:
        trial.close()
        print(f"{trial.summary()}; seed {seed}")
    return status == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--kill", action="store_true", help="kill -9 the registry every second, and start it again")
    parser.add_argument("--out", type=Path, help="a file for all operations, a line of JSON each")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(
            not prove(
                Path(folder),
                asked.seed,
                asked.seconds,
                None,
                asked.out,
                kill=asked.kill,
                rounds=1.0 if asked.kill else ROUND,
            )
        )


if __name__ == "__main__":
    main()
