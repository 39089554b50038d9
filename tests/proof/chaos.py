"""Has everything go wrong, and checks what clients see of it: `python tests/proof/chaos.py --minutes 30 --seed 1`

A registryd keeps its state on a small disk of its own and is asked over a network of its own, by the clients of
workload.py. Again and again something happens to it, in an order that the seed gives: it is killed (kill -9) or told to
end, and started again; it is stopped and goes on (SIGSTOP, SIGCONT); its disk is full; its wall clock jumps; all
connections are reset; the link is taken down; the network is slow. Every other kill and reset comes while the network
is slow, so that much is under way, and every other full disk ends with a kill. After each, what the clients have seen
is checked: whether some order of one registry explains it, as checker.py says. In the end it must stop in order, and
its log must have nothing in it that would not have to be there.

All of it is in namespaces (network, mounts, processes) that end with this program, however that ends. It needs root,
and says so otherwise, with status 2. Ends with status 1 where something is wrong.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# As in a test, what is shared is imported from the folder of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))

from process import DEADLINE, RunningDaemon
from proof.checker import Undecided, Violation
from proof.history import Book
from proof.shifted import shift
from proof.workload import Trial, Workload

from registryd.clock import AWAY

#: What is run in namespaces of its own, and ends with whoever has started it.
ALONE = [
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
]  # fmt: skip
FOLDER = Path("/run/chaos")
#: The network: our end and the registry's, each an interface with an address.
OURS, ITS = ("ours", "10.79.0.1"), ("its", "10.79.0.2")
SHIFTED = Path(__file__).with_name("shifted.py")
#: Bytes of the disk. A full WAL is 4 MB.
DISK = 16_000_000
#: How slow the network can be made, the first that the kernel can do: late and with losses, or narrow.
SLOW = {
    "netem": ("netem", "delay", "60ms", "20ms", "loss", "2%"),
    "tbf": ("tbf", "rate", "250kbit", "burst", "2000", "latency", "1s"),
}
#: Seconds of the wall clock that it is off at most. What a restart finds is remembered for an hour of the wall clock.
MOST_OFF = 1500.0
#: Seconds before something happens, and after the registry has answered again.
CALM = 0.3
#: What may be in the log above INFO, and has to be when such things happen.
EXPECTED = re.compile(
    "stalled seconds=|everyone who can reach|cannot write to .*(disk is full|disk I/O error)|can be written to again"
)


class Fault(NamedTuple):
    """Something that happens: what, for how many seconds, and a number from 0 to 1 for what else there is to choose."""

    name: str
    seconds: float
    chance: float


def plan(seed: int, longest: float) -> Iterator[Fault]:
    """What happens: everything once, in any order, and again."""
    dice, names = random.Random(seed), sorted(FAULTS)
    while True:
        dice.shuffle(names)
        for name in names:
            yield Fault(name, dice.uniform(0.25, longest), dice.random())


def command(*argv: str) -> None:
    """Runs a command, which must succeed."""
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(argv)}: {ran.stdout}{ran.stderr}"


class Place:
    """A network and a disk; made in namespaces of our own, which take them away."""

    def __init__(self) -> None:
        command("mount", "-t", "tmpfs", "tmpfs", "/run")
        self.state, self.shift = FOLDER / "state", FOLDER / "shift"
        self.state.mkdir(parents=True)
        command("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.state))
        shift(self.shift, 0.0)
        self._connect()
        self.how_slow = next(name for name, words in SLOW.items() if self._can_be(words))

    def _connect(self) -> None:
        command("ip", "netns", "add", "registry")
        command("ip", "link", "add", OURS[0], "type", "veth", "peer", "name", ITS[0], "netns", "registry")
        for netns, (interface, address) in ((), OURS), (("-n", "registry"), ITS):
            command("ip", *netns, "address", "add", f"{address}/24", "dev", interface)
            command("ip", *netns, "link", "set", interface, "up")
            command("ip", *netns, "link", "set", "lo", "up")

    def _can_be(self, words: tuple[str, ...]) -> bool:
        argv = ["tc", "qdisc", "add", "dev", "lo", "root", *words]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def link(self, state: str) -> None:
        """Takes the registry's end of the cable `up` or `down`."""
        command("ip", "-n", "registry", "link", "set", ITS[0], state)

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """All that goes either way is slow meanwhile."""
        ends = [("tc", "qdisc"), ("tc", "-n", "registry", "qdisc")]
        devices = [("dev", OURS[0], "root"), ("dev", ITS[0], "root")]
        for end, device in zip(ends, devices, strict=True):
            command(*end, "add", *device, *SLOW[self.how_slow])
        yield
        for end, device in zip(ends, devices, strict=True):
            command(*end, "del", *device)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """There is no room on the disk meanwhile."""
        filler = self.state / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (65_536, 4_096):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass
            with contextlib.suppress(OSError):
                file.write(b"x")
                raise AssertionError("there is room left")
        yield
        filler.unlink()

    def start(self, life: int) -> RunningDaemon:
        """A registryd on this network and this disk."""
        argv = ["ip", "netns", "exec", "registry", sys.executable, str(SHIFTED), str(self.shift)]
        flags = ("--host", ITS[1], "--http", "front", "--state-dir", str(self.state))
        return RunningDaemon(FOLDER, *flags, argv=argv)


class Chaos:
    """What happens to a registry, under the eyes of a trial."""

    def __init__(self, place: Place, trial: Trial) -> None:
        self.place, self.trial = place, trial
        self.happened: Counter[str] = Counter()

    async def round(self, fault: Fault) -> None:
        """Lets something happen amid the load, and checks what the clients have seen of it. Raises Violation,
        Undecided."""
        over = asyncio.Event()
        running = asyncio.ensure_future(self.trial.workload.run(over.is_set))
        try:
            await asyncio.sleep(CALM)
            await FAULTS[fault.name](self, fault)
            await self._answers()
            await asyncio.sleep(CALM)
        finally:
            over.set()
            await running
        self.trial.check()
        self.happened[fault.name] += 1

    async def _answers(self) -> None:
        """Waits until the registry answers again."""
        async with asyncio.timeout(DEADLINE):
            since, operations = time.monotonic(), self.trial.workload.operations
            while not any(one.outcome == "ok" and one.invoked > since for one in operations[-20:]):
                await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def _crowded(self, fault: Fault) -> Iterator[None]:
        """Every other time the network is slow, so that much is under way."""
        with self.place.slow() if fault.chance < 0.5 else contextlib.nullcontext():
            yield

    async def kill(self, fault: Fault) -> None:
        with self._crowded(fault):
            await asyncio.sleep(fault.seconds)
            await self.trial.end(signal.SIGKILL)
        await self.trial.start()

    async def restart(self, fault: Fault) -> None:
        status = await self.trial.end(signal.SIGTERM)
        assert status == 0, f"it ended with status {status}: {self.trial.lines[-3:]}"
        await self.trial.start()

    async def stop(self, fault: Fault) -> None:
        pid = self.trial.daemon.popen.pid
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0.001)
        since = time.monotonic()
        await asyncio.sleep(fault.seconds)
        until = time.monotonic()
        os.kill(pid, signal.SIGCONT)
        if until - since > AWAY:
            self.trial.lives[-1].stopped.append((since, until))

    async def fill(self, fault: Fault) -> None:
        """A WAL that is written anew from its beginning would not need room for long; after a restart it is new."""
        await self.restart(fault)
        with self.place.full():
            await asyncio.sleep(fault.seconds)
            is_killed = fault.chance < 0.5
            if is_killed:
                await self.trial.end(signal.SIGKILL)
        if is_killed:
            await self.trial.start()

    async def jump(self, fault: Fault) -> None:
        shift(self.place.shift, (2 * fault.chance - 1) * MOST_OFF)
        await asyncio.sleep(fault.seconds)

    async def reset(self, fault: Fault) -> None:
        end = time.monotonic() + fault.seconds
        with self._crowded(fault):
            while time.monotonic() < end:
                await asyncio.sleep(0.2)
                self.trial.workload.cut()

    async def unplug(self, fault: Fault) -> None:
        self.place.link("down")
        await asyncio.sleep(fault.seconds)
        self.place.link("up")

    async def slow(self, fault: Fault) -> None:
        with self.place.slow():
            await asyncio.sleep(fault.seconds)


FAULTS: dict[str, Callable[[Chaos, Fault], Awaitable[None]]] = {
    "kill": Chaos.kill,
    "restart": Chaos.restart,
    "stop": Chaos.stop,
    "full disk": Chaos.fill,
    "clock jump": Chaos.jump,
    "reset": Chaos.reset,
    "link down": Chaos.unplug,
    "slow network": Chaos.slow,
}


async def wreck(chaos: Chaos, faults: Iterator[Fault], seconds: float) -> None:
    """Lets things happen for so many seconds. Raises Violation, Undecided."""
    begin = time.monotonic()
    await chaos.trial.start()
    for fault in faults:
        at = time.monotonic() - begin
        if at > seconds:
            break
        print(f"{at:8.1f} s  {fault.name} ({fault.seconds:.2f} s, {fault.chance:.2f})", flush=True)
        await chaos.round(fault)
    status = await chaos.trial.end(signal.SIGTERM)
    assert status == 0, f"it ended with status {status}"


def run(asked: argparse.Namespace) -> bool:
    """All of it, in namespaces of our own; gives back whether all was well."""
    place = Place()
    trial = Trial(Workload(asked.seed), place.start, Book(asked.out))
    chaos = Chaos(place, trial)
    print(f"seed {asked.seed}; the network is made slow by {place.how_slow}, the wall clock by time.time()", flush=True)
    faults = plan(asked.seed, asked.longest)
    if asked.faults:
        faults = iter([next(faults) for _ in range(asked.faults)])
    try:
        asyncio.run(wreck(chaos, faults, asked.minutes * 60))
        problems = [line for line in trial.lines if " INFO " not in line and not EXPECTED.search(line)]
    except (Violation, Undecided, AssertionError, TimeoutError) as found:
        problems = [str(found) or repr(found)]
    finally:
        trial.close()
    print(", ".join(f"{count} x {name}" for name, count in sorted(chaos.happened.items())))
    print(f"{trial.summary()}; seed {asked.seed}")
    print("\n".join(problems or ["all is explained; it ended in order, and nothing is in the log that should not be"]))
    return not problems


def why_not() -> str:
    """Why this machine cannot; empty where it can."""
    if os.getuid() != 0:
        return "it needs root, for namespaces, a network and a disk of its own"
    missing = [tool for tool in ("setpriv", "unshare", "mount", "ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"there is no {', '.join(missing)} (util-linux, iproute2)"
    words = " || ".join(f"tc qdisc add dev lo root {' '.join(words)}" for words in SLOW.values())
    probe = f"mount -t tmpfs tmpfs /run && ip netns add probe && ip link add type veth && {{ {words}; }}"
    ran = subprocess.run([*ALONE, "sh", "-c", probe], capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else f"namespaces are not to be had: {ran.stderr.strip().splitlines()[-1:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--faults", type=int, default=0, help="end after so many things have happened")
    parser.add_argument("--longest", type=float, default=4.0, help="seconds that one of them takes at most")
    parser.add_argument("--out", type=Path, help="a file for all operations, a line of JSON each")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        return not run(asked)
    reason = why_not()
    if reason:
        print(f"chaos cannot be had here: {reason}", file=sys.stderr)
        return 2
    argv = [*ALONE, sys.executable, __file__, *sys.argv[1:], "--seed", str(asked.seed), "--inside"]
    return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
