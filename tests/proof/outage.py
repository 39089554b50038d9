"""A registry is killed, stays away, and is started anew, under programs that look up all the time:
`python tests/proof/outage.py --seconds 60`

Both shells of the client register two instances of a service each, with a lease far shorter than the outage, and keep a
copy of it; a thread for each copy looks up a thousand times a second, by each way of choosing. Not one lookup may fail,
or find another number of instances than there are; the age of the copies must tell of the outage; and after it they
must be current, and all instances known to the new registry, which remembers the old one's (--keeps disk) or nothing
(memory). Ends with status 1 where that is not so.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Run as a program, it does not find what the tests share by itself.
sys.path.insert(0, str(Path(__file__).parent.parent))

from process import RunningDaemon
from shells import Asyncio, Blocking, Shell, until

from registryd.client.choices import Policy
from registryd.client.discovery import LocalCopy
from registryd.client.errors import RegistrydError

#: Seconds of a lease.
TTL = 1.0
POLICIES: list[Policy] = ["round_robin", "least_pending"]


class Lookups:
    """Someone who looks up all the time, and keeps what has failed."""

    def __init__(self, users: LocalCopy, expected: int) -> None:
        self.count = 0
        self.failures: list[str] = []
        self.oldest = 0.0
        self._users = users
        self._expected = expected
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_up)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """In a thread, as long as the block lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            self._thread.join()

    def _look_up(self) -> None:
        while not self._is_over.wait(0.001):
            self.count += 1
            self.oldest = max(self.oldest, self._users.age)
            try:
                self._users.pick()
                self._users.pick(str(self.count))
                with self._users.acquire():
                    found = len(self._users.instances)
            except RegistrydError as error:
                self.failures.append(str(error))
            else:
                if found != self._expected:
                    self.failures.append(f"{found} instances")


def outage(folder: Path, seconds: float, keeps: str) -> bool:
    """One outage; prints what came of it, and gives back whether all is as it should be."""
    kept = ("--state-dir", str(folder)) if keeps == "disk" else ()
    with ExitStack() as stack:
        first = stack.enter_context(RunningDaemon(folder, *kept))
        os.environ["REGISTRY_URL"] = first.url
        shells: list[Shell] = [stack.enter_context(Asyncio()), Blocking()]
        ids = {
            stack.enter_context(shell.registered("users", f"http://10.0.0.{n}:8000", ttl=TTL)).instance_id
            for n, shell in enumerate(shells * 2, 1)
        }
        copies = [
            stack.enter_context(shell.discovery("users", policy))
            for shell, policy in zip(shells, POLICIES, strict=True)
        ]
        lookups = [Lookups(users, len(ids)) for users in copies]
        with ExitStack() as looking:
            for each in lookups:
                looking.enter_context(each.going_on())
            first.signal(signal.SIGKILL)
            first.wait()
            killed_at = time.monotonic()
            until(lambda: time.monotonic() - killed_at >= seconds, within=seconds + 10)
            second = stack.enter_context(RunningDaemon(folder, *kept, "--port", first.url.rpartition(":")[2]))
            back_at = time.monotonic()
            until(lambda: all(users.age < time.monotonic() - back_at for users in copies))
            current_after = time.monotonic() - back_at
            until(lambda: set(second.listed()) == ids)
            # For longer than those are waited for who do not register again.
            beyond = time.monotonic() + TTL + 0.5
            until(lambda: time.monotonic() >= beyond)
    is_well = True
    for name, each in zip(("asyncio", "blocking"), lookups, strict=True):
        print(
            f"{keeps}, {name}: {back_at - killed_at:.1f} s without a registry; {each.count:,} lookups, "
            f"{len(each.failures)} failed; the copy was {each.oldest:.1f} s old at most"
        )
        is_well &= not each.failures and each.count > 10 and each.oldest >= seconds
        for failure in each.failures[:3]:
            print(f"  {failure}")
    print(f"{keeps}: both were current {current_after:.1f} s after the registry was back")
    return is_well


def main() -> None:
    logging.getLogger("registryd.client").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__.partition(":\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long the registry is away")
    parser.add_argument("--keeps", choices=["memory", "disk"], action="append", help="its state; both if not given")
    asked = parser.parse_args()
    is_well = True
    for keeps in asked.keeps or ["memory", "disk"]:
        with tempfile.TemporaryDirectory() as folder:
            is_well &= outage(Path(folder), asked.seconds, keeps)
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
