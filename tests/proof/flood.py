"""Floods of a real registryd, by everyone who means it ill: `python tests/proof/flood.py --seconds 8`

Each attack of attacks.py goes on for so many seconds, against each server, one after the other. All the time two
witnesses, one of them at an address that attacks, keep short leases as the README tells: a heartbeat every third of it,
each on a new connection, and again within a second where it is refused. A third looks at the list; and for each attack
one registers that nobody keeps alive. In the end more attackers hold on while registryd is told to stop. What was seen
is judged by promises.py: no lease that was kept is missing from a list, those that were not end in time (seconds that
the registry says it could not hear everyone do not count), memory and descriptors stay below what the settings give,
nothing is left of an attack, and the stop takes no longer than it may. Ends with status 1 where that is not so.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import resource
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import trustme

# As in a test, what is shared is imported from the folder of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))

from process import DEADLINE, Reply, RunningDaemon
from proof import attacks, promises
from proof.attacks import ATTACKS, LAST, Attack, Scene

#: Seconds of a lease, and twice as many for an answer; between two heartbeats; before one that was refused comes again;
#: and between two looks.
TTL = 5.0
EVERY, AGAIN, LOOK = TTL / 3, 0.5, 0.15
#: Who keeps a lease, by the address from which: one that has nothing to do with it, and one that attacks.
KEEPERS = {"far": "127.0.0.2", "near": attacks.ADDRESSES[0]}
LOOKER = "127.0.0.3"
#: Files that may be open for connections that come and go meanwhile.
LATE = 4
#: Connections that are refused or closed, but not gone yet.
ON_THE_WAY = 200
#: Bytes of memory that a change may take which is kept for watchers; and what comes and goes with every load: buffers,
#: answers that are kept rendered, what malloc does not give back.
EACH_CHANGE, SPARE = 6_000, 40_000_000
#: Seconds that requests under way get at a stop, and in which it must have ended.
DRAIN, STOP = 2, 12.0
#: What no log should have.
LOUD = (" ERROR ", " CRITICAL ", "Traceback")

#: Columns of the report: names to the left, numbers to the right.
WIDTHS = ("<24", "<14", ">9", ">8", ">8", ">14", ">5", ">20", ">10")

#: What a process sees in which uvloop is not installed.
WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None\nfrom registryd.cli import main; sys.exit(main())"


class Kind(NamedTuple):
    """A server: its flag, the most bytes of memory that each connection takes (what waits for it not counted), whether
    its loop is asyncio's own, and whether it speaks TLS."""

    http: str
    each: int = 80_000
    plain_loop: bool = False
    tls: bool = False


KINDS = {
    "front, asyncio": Kind("front", plain_loop=True),
    "front, uvloop": Kind("front"),
    "tornado": Kind("tornado"),
    "front, TLS": Kind("front", 330_000, tls=True),
}


class Client:
    """Asks from an address of its own, on one connection for as long as that lasts, or on a new one each time."""

    def __init__(self, url: str, address: str, tls: ssl.SSLContext | None, *, stays: bool) -> None:
        self._url = urlsplit(url)
        self._address = address
        self._tls = tls
        self._stays = stays
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: object = None) -> Reply:
        """One request. Raises OSError, HTTPException."""
        connection = self._connection or self._connect()
        self._connection = None
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            response = connection.getresponse()
            reply = Reply(response.status, dict(response.headers), response.read())
        except BaseException:
            connection.close()
            raise
        if self._stays and reply.status == 200:
            self._connection = connection
        else:
            connection.close()
        return reply

    def close(self) -> None:
        """Hangs up."""
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port, source = self._url.hostname or "", self._url.port, (self._address, 0)
        if self._tls is None:
            return http.client.HTTPConnection(host, port, 2 * TTL, source)
        return http.client.HTTPSConnection(host, port, timeout=2 * TTL, source_address=source, context=self._tls)


class Witness:
    """Someone who does something again and again, in a thread of its own, as those who attack are busy."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(DEADLINE)

    def _live(self) -> None:
        try:
            pause = 0.0
            while not self._is_over.wait(pause):
                pause = self.act()
        except Exception as failure:  # which the story raises
            self.failure = failure

    def act(self) -> float:
        """Does it once; gives back the seconds until it does it again."""
        raise NotImplementedError


class Keeper(Witness):
    """Keeps a lease. It never registers again."""

    def __init__(self, client: Client, instance_id: str) -> None:
        super().__init__()
        self._client = client
        self._id = instance_id
        self.beats: list[promises.Beat] = []

    def act(self) -> float:
        asked, status = time.monotonic(), 0
        with contextlib.suppress(OSError, http.client.HTTPException):
            if self.beats:
                status = self._client.ask("POST", f"/heartbeat/{self._id}").status
            else:
                status = self._client.ask("POST", "/register", witness(self._id)).status
        answered = time.monotonic()
        self.beats.append(promises.Beat(asked, answered, status))
        return max(0.0, EVERY - (answered - asked)) if status == 200 else AGAIN


class Looker(Witness):
    """Looks at the list of all witnesses, and at what the registry says of itself."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self.looks: list[promises.Look] = []

    def act(self) -> float:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._look()
        return LOOK

    def _look(self) -> None:
        asked = time.monotonic()
        reply = self._client.ask("GET", "/services/witness")
        answered = time.monotonic()
        status = self._client.ask("GET", "/status")
        if reply.status == status.status == 200:
            listed = frozenset(instance["instance_id"] for instance in reply.json["instances"])
            self.looks.append(promises.Look(asked, answered, listed, **said(status.json)))


class Gauge(Witness):
    """Measures a process, and keeps the most of each."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._process = Path(f"/proc/{pid}")
        self.reset()

    def reset(self) -> None:
        """Begins anew."""
        self.most_memory = self.most_files = 0

    def act(self) -> float:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            self.most_memory = max(self.most_memory, self.memory())
            self.most_files = max(self.most_files, self.files())
        return 0.03

    def memory(self) -> int:
        """Resident memory in bytes."""
        return int((self._process / "statm").read_text().split()[1]) * resource.getpagesize()

    def files(self) -> int:
        """How many files it has open."""
        return sum(1 for _ in (self._process / "fd").iterdir())


def witness(instance_id: str) -> dict[str, object]:
    """The registration of a witness."""
    return {"service_name": "witness", "base_url": "http://h", "instance_id": instance_id, "ttl": TTL}


def said(status: Any) -> dict[str, Any]:
    """What a Look keeps of /status."""
    overload = status.get("overload", {})
    return {
        "lost": status["leases"]["stalled_seconds"],
        "waiting": overload.get("waiting_bytes", 0),
        "refused": overload.get("connections_refused", 0) + overload.get("requests_refused", 0),
        "cut_off": overload.get("crowded_out", 0) + overload.get("cut_off", 0),
    }


class Flood:
    """One registry, all that is done to it, and all that is seen."""

    def __init__(self, name: str, daemon: RunningDaemon, tls: ssl.SSLContext | None, seconds: float) -> None:
        self._name, self._kind = name, KINDS[name]
        self._daemon = daemon
        self._seconds = seconds
        self._scene = Scene(urlsplit(daemon.url).port or 0, tls)
        self._client = Client(daemon.url, attacks.MOVER, tls, stays=False)
        self._looker = Looker(Client(daemon.url, LOOKER, tls, stays=True))
        self._keepers = {
            instance_id: Keeper(Client(daemon.url, address, tls, stays=False), instance_id)
            for instance_id, address in KEEPERS.items()
        }
        self._gauge = Gauge(daemon.popen.pid)
        self._dead: list[promises.Lease] = []
        self._strains: list[promises.Strain] = []

    def report(self, story: promises.Story) -> str:
        """A line for each attack. What of its lease's time did not count is in brackets."""
        lines = []
        moments = [lease.asked for lease in story.dead[1:]] + [float("inf")]
        for lease, end, strain in zip(story.dead, moments, story.strains, strict=True):
            looks = [look for look in story.looks if lease.asked < look.answered <= end]
            before = [look for look in story.looks if look.answered <= lease.asked][-1]
            beats = [b.status for beats in story.beats.values() for b in beats if lease.asked <= b.asked < end]
            lived = all(look.listed >= KEEPERS.keys() for look in looks)
            gone = promises.end_of(lease, story.looks)
            after = "never" if gone is None else f"{gone.answered - lease.asked:.1f} s ({gone.lost - lease.lost:.1f})"
            lines.append(
                row(
                    strain.attack, self._name, f"{strain.attempts:,}",
                    f"{looks[-1].refused - before.refused:,}", f"{looks[-1].cut_off - before.cut_off:,}",
                    f"{len(beats)}/{sum(status != 200 for status in beats)}", "yes" if lived else "NO", after,
                    f"{strain.memory / 1e6:.0f} of {strain.most_memory / 1e6:.0f}",
                )
            )  # fmt: skip
        return "\n".join(lines)

    async def run(self) -> promises.Story:
        """Does it all."""
        for n in range(attacks.LARGE):
            assert self._client.ask("POST", "/register", attacks.large(n)).status == 200
        assert self._client.ask("GET", "/services/large").status == 200
        with contextlib.ExitStack() as stack:
            witnesses = [*self._keepers.values(), self._looker, self._gauge]
            for one in witnesses:
                stack.enter_context(one)
            await self._until(lambda: bool(self._looker.looks) and self._looker.looks[-1].listed >= KEEPERS.keys())
            assert self._looker.looks, "it answers"
            self._memory = self._gauge.memory()
            for attack in ATTACKS:
                await self._suffer(attack)
            await self._until(lambda: all(promises.end_of(lease, self._looker.looks) for lease in self._dead))
            for one in witnesses:
                if one.failure is not None:
                    raise one.failure
        ending = await self._stop()
        beats = {instance_id: keeper.beats for instance_id, keeper in self._keepers.items()}
        return promises.Story(beats, self._looker.looks, self._dead, self._strains, ending)

    async def _suffer(self, attack: Attack) -> None:
        """One attack, and what is left of it."""
        self._gauge.reset()
        files = self._gauge.files()
        self._begin_lease(f"dead-{len(self._dead)}", self._looker.looks[-1].lost)
        scene = self._scene
        scene.begin(self._seconds)
        await attack.do(scene)
        over = time.monotonic()
        held = min(attacks.CONNECTIONS, attack.addresses * attacks.OF_ONE_ADDRESS)
        strain = promises.Strain(
            attack.name,
            scene.attempts,
            self._gauge.most_memory,
            self._memory
            + attacks.WAITING
            + attacks.CONNECTIONS * self._kind.each
            + scene.changes * EACH_CHANGE
            + SPARE,
            self._gauge.most_files,
            files + held + ON_THE_WAY,
        )
        await self._until(lambda: self._gauge.files() <= files + LATE and self._is_rid_of(over))
        self._strains.append(
            strain._replace(left_files=self._gauge.files() - files - LATE, left_waiting=self._looker.looks[-1].waiting)
        )

    def _begin_lease(self, instance_id: str, lost: float) -> None:
        """A lease begins that nobody keeps."""
        asked = time.monotonic()
        assert self._client.ask("POST", "/register", witness(instance_id)).status == 200
        self._dead.append(promises.Lease(instance_id, asked, time.monotonic(), TTL, lost))

    def _is_rid_of(self, moment: float) -> bool:
        """Whether a look after this moment has found nothing waiting."""
        last = self._looker.looks[-1]
        return last.asked > moment and not last.waiting

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Waits until something is so, but not for ever: what is not so then the judge will see."""
        end = time.monotonic() + DEADLINE
        while not is_so() and time.monotonic() < end:
            await asyncio.sleep(0.05)

    async def _stop(self) -> promises.Ending:
        """Tells it to stop while many hold on."""
        files = self._gauge.files()
        self._scene.begin(DEADLINE + STOP)
        last = [asyncio.ensure_future(attack(self._scene)) for attack in LAST]
        await self._until(lambda: self._gauge.files() > files + 50)
        self._daemon.popen.terminate()
        status: int | None = None
        with contextlib.suppress(TimeoutExpired):
            status = await asyncio.to_thread(self._daemon.popen.wait, STOP)
        for task in last:
            task.cancel()
        await asyncio.gather(*last, return_exceptions=True)
        return promises.Ending(status, [line for line in self._daemon.lines if any(one in line for one in LOUD)])


def row(*cells: object) -> str:
    """A line of the report."""
    return " ".join(f"{cell!s:{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


HEADING = row(
    "attack", "server", "attempts", "refused", "cut off", "beats/refused", "lived", "the dead ended", "peak MB"
)


async def flood(name: str, seconds: float, folder: Path) -> bool:
    """Whether all promises were kept."""
    kind = KINDS[name]
    flags = [
        "--http", kind.http, "--drain-timeout", str(DRAIN),
        "--max-connections", str(attacks.CONNECTIONS),
        "--max-connections-per-address", str(attacks.OF_ONE_ADDRESS),
        "--max-requests-per-address", str(attacks.REQUESTS),
        "--max-waiting-bytes", str(attacks.WAITING),
    ]  # fmt: skip
    context = None
    if kind.tls:
        authority = trustme.CA()
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(folder / "pem")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        flags += ["--tls-cert", str(folder / "pem")]
    argv = [sys.executable, "-c", WITHOUT_UVLOOP] if kind.plain_loop else None
    with RunningDaemon(folder, *flags, argv=argv) as daemon:
        flooded = Flood(name, daemon, context, seconds)
        story = await flooded.run()
    print(flooded.report(story), flush=True)
    broken = promises.judge(story)
    for sentence in broken:
        print(f"{name}: BROKEN: {sentence}")
    return not broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each attack")
    parser.add_argument("--server", choices=KINDS, action="append", help="which server; all if not given")
    asked = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(HEADING)
    is_well = True
    for name in asked.server or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            is_well &= asyncio.run(flood(name, asked.seconds, Path(folder)))
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
