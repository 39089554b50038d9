"""How many requests per second registryd answers, and how soon, beside its peers: `python tests/bench/load.py`

Starts each server on one core and drives it from another with `wrk` (Debian package), in rounds in which the servers
take turns. Prints, for each work, the median over the rounds of requests per second, its ratio to nginx answering the
same bytes as a constant, and the 99th percentile of the latency; then the ratios that are the project's goals, each of
them computed within a round. The same goes to a JSON file and into a plot (SVG). wrk sends the next request of a
connection when the answer to the last has come, so that a latency is that of a server under as much load as it takes.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# As in a test, a module of the benches is imported from the folder of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.plot import PERCENTILES, Row, draw
from bench.servers import SERVERS, Caller, Calls, Failed, Request, Running, Server

CONNECTIONS = 32
#: One core for the server, another for wrk (the same, where there is only one).
SERVERS_CORE, WRKS_CORE = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
#: Different requests of the mix: enough that nearly every service is among them.
MIXED = 40_000
#: Figures within this share of the fastest that was seen may be those of wrk.
NEAR = 0.97
#: A server that used less of its core than this was held up by something else.
FULL = 0.9
#: Rounds of which the fastest is further above the slowest than this did not find the same machine.
STEADY = 1.25

#: Reads the requests from a file, a line each. Where there is but one, there is no function named request: wrk then
#: sends the same bytes again and again without asking Lua. It counts an answer as an error from status 400 on.
SCRIPT = """
local lines, requests, at = {}, {}, 0
for line in io.lines("REQUESTS") do
    lines[#lines + 1] = line
end

function init(args)
    for n, line in ipairs(lines) do
        local method, target, body = line:match("^(%S+) (%S+) ?(.*)$")
        wrk.method, wrk.path, wrk.body = method, target, body ~= "" and body or nil
        wrk.headers["Content-Type"] = wrk.body and "application/json"
        requests[n] = wrk.format()
    end
end

if #lines > 1 then
    function request()
        at = at % #requests + 1
        return requests[at]
    end
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests":%d,"microseconds":%d,"bytes":%d,"status":%d,"socket":%d,"latencies":[%d,%d,%d,%d]}\\n',
        summary.requests, summary.duration, summary.bytes, errors.status,
        errors.connect + errors.read + errors.write + errors.timeout,
        latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9)
    ))
end
"""

Population = Sequence[tuple[int, int]]


class Work(NamedTuple):
    """What the servers are asked to do, with so many instances in so large services."""

    name: str
    title: str
    #: The call whose answer a server of constants gives to all.
    main: str
    instances: int
    per_service: int
    requests: Callable[[Calls, Population], list[Request]]
    #: Whether each round has a server of its own.
    fresh: bool = False

    def population(self) -> Population:
        """The instances that are there before, as (service, instance)."""
        return [(n // self.per_service, n) for n in range(self.instances)]


def mixed(calls: Calls, population: Population) -> list[Request]:
    """90 % lookups, 9 % heartbeats, and 1 % registrations of what is registered, so that the number stays."""
    dice = random.Random(7)
    requests = []
    for _ in range(MIXED):
        (service, instance), die = dice.choice(population), dice.random()
        if die < 0.9:
            requests.append(calls.lookup(service))
        elif die < 0.99:
            requests.append(calls.heartbeat(instance))
        else:
            requests.append(calls.register(service, instance))
    return requests


def look_up(calls: Calls, population: Population) -> list[Request]:
    return [calls.lookup(population[0][0])]


def works(instances: int) -> list[Work]:
    """All of them, the mix with so many instances."""

    def heartbeats(calls: Calls, population: Population) -> list[Request]:
        return [calls.heartbeat(instance) for _, instance in random.Random(7).sample(population, len(population))]

    def handler(calls: Calls, population: Population) -> list[Request]:
        return [calls.instance(instance) for _, instance in population]

    return [
        Work("lookup", "lookup of 10", "/services/", 10, 10, look_up),
        Work("lookup1000", "lookup of 1,000", "/services/", 1000, 1000, look_up),
        Work("heartbeat", "heartbeat", "/heartbeat/", 1000, 10, heartbeats),
        Work("register", "register", "/register", 0, 1, lambda calls, _: calls.register_new(), fresh=True),
        Work("handler", "one instance (handler)", "/instances/", 10, 10, handler),
        Work("mix", f"90/9/1 mix, {instances:,} there", "/services/", instances, 10, mixed),
    ]


class Figure(NamedTuple):
    """What one run of wrk found: requests per second, microseconds at each of PERCENTILES, how much of its core the
    server used, and the bytes of an answer.
    """

    rate: float
    latencies: tuple[float, ...]
    busy: float
    size: float

    @property
    def p99(self) -> float:
        return self.latencies[PERCENTILES.index("p99")]


def median(figures: Sequence[Figure]) -> Figure:
    """The medians of all that is in them."""
    latencies = zip(*(figure.latencies for figure in figures), strict=True)
    return Figure(
        statistics.median(figure.rate for figure in figures),
        tuple(statistics.median(each) for each in latencies),
        statistics.median(figure.busy for figure in figures),
        statistics.median(figure.size for figure in figures),
    )


#: The rounds of each (work, server).
Figures = dict[tuple[str, str], list[Figure]]


class Goal(NamedTuple):
    """A ratio that the project means to reach."""

    title: str
    work: str
    server: str
    to: str
    wanted: str
    figure: Callable[[Figure], float] = lambda figure: figure.rate

    def rounds(self, figures: Figures) -> list[float]:
        """The ratio in each round, or nothing if one of the two was not measured."""
        mine, other = figures.get((self.work, self.server), []), figures.get((self.work, self.to), [])
        both = zip(mine, other, strict=False)
        return [self.figure(one) / self.figure(two) for one, two in both if self.figure(two)]


GOALS = [
    Goal("lookup, front / nginx", "lookup", "front", "nginx", ">= 0.85"),
    Goal("lookup, front / plain Tornado", "lookup", "front", "plain", ">= 20"),
    Goal("heartbeat, front / nginx", "heartbeat", "front", "nginx", ">= 0.8"),
    Goal("register, front / nginx", "register", "front", "nginx", ">= 0.3"),
    Goal("handler, front / Tornado's server", "handler", "front", "tornado", ">= 2"),
    Goal("p99 of the mix, front / echo", "mix", "front", "echo", "< 3", lambda figure: figure.p99),
]


def progress(what: str) -> None:
    print(f"\r{what:<78}", end="", file=sys.stderr, flush=True)


class Bench:
    """Runs the works on the servers, and keeps what wrk finds."""

    def __init__(self, servers: Sequence[Server], seconds: int, rounds: int, folder: Path) -> None:
        self._servers = servers
        self._seconds = seconds
        self._rounds = rounds
        self._folder = folder
        self.figures: Figures = {}

    def run(self, work: Work) -> None:
        """All rounds of a work. Its servers live through all of them, unless each round has its own."""
        servers = [server for server in self._servers if work.name in server.works]
        bodies = self._bodies(work) if any(server.is_constant for server in servers) else {}
        with contextlib.ExitStack() as stack:
            living: dict[str, Running] = {}
            for server in servers if not work.fresh else ():
                living[server.name] = stack.enter_context(self._started(server, work, bodies))
            for n in range(self._rounds):
                for server in servers:
                    progress(f"{work.name}: round {n + 1} of {self._rounds}, {server.name}")
                    self.figures.setdefault((work.name, server.name), []).append(
                        self._driven(living[server.name], work)
                        if server.name in living
                        else self._driven_alone(server, work, bodies)
                    )

    def _driven_alone(self, server: Server, work: Work, bodies: Mapping[str, bytes]) -> Figure:
        with self._started(server, work, bodies) as running:
            return self._driven(running, work)

    @contextlib.contextmanager
    def _started(self, server: Server, work: Work, bodies: Mapping[str, bytes]) -> Iterator[Running]:
        """A server with the instances of the work in it."""
        progress(f"{work.name}: start {server.name}")
        folder = Path(tempfile.mkdtemp(prefix=f"{server.name}-", dir=self._folder))
        with Running(server, folder, SERVERS_CORE, bodies) as running:
            if not server.is_constant:
                running.fill(work.population(), lambda n: progress(f"{work.name}: fill {server.name}, {n:,} requests"))
            self._check(running, work)
            yield running

    def _check(self, running: Running, work: Work) -> None:
        """Asks a little, so that nothing is measured which is no answer to the question."""
        calls, population = running.server.calls, work.population()
        with Caller(running.port) as caller:
            caller.call(*work.requests(calls, population)[:CONNECTIONS])
            if work.main != "/services/" or not running.server.lists:
                return
            for _ in running.tries():  # a lookup in consul may lag behind the registrations
                (answer,) = caller.call(calls.lookup(population[0][0]))
                if len(answer) >= 100 * work.per_service:
                    return
        raise Failed(f"{running.server.name}, {work.name}: too little to be the instances: {answer[:200]!r}")

    def _bodies(self, work: Work) -> Mapping[str, bytes]:
        """What registryd answers, by the beginning of the target, and first of all the main call of the work."""
        calls, service = SERVERS[0].calls, work._replace(instances=work.per_service).population()
        questions = {
            "/services/": calls.lookup(0),
            "/heartbeat/": calls.heartbeat(0),
            "/instances/": calls.instance(0),
            "/register": calls.register(0, 0),
        }
        progress(f"{work.name}: ask registryd for the bytes of the constant answers")
        folder = Path(tempfile.mkdtemp(prefix="bytes-", dir=self._folder))
        with Running(SERVERS[0], folder, SERVERS_CORE, {}) as running, Caller(running.port) as caller:
            running.fill(service, lambda _: None)
            bodies = {target: caller.call(question)[0] for target, question in questions.items()}
        return {work.main: bodies[work.main], **bodies}

    def _driven(self, running: Running, work: Work) -> Figure:
        """One run of wrk. An error in it is a Failed."""
        requests, script = self._folder / "requests", self._folder / "wrk.lua"
        asked = work.requests(running.server.calls, work.population())
        requests.write_text("".join(f"{' '.join(request).rstrip()}\n" for request in asked))
        script.write_text(SCRIPT.replace("REQUESTS", str(requests)))
        url = f"http://127.0.0.1:{running.port}/"
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{self._seconds}", "--timeout", "20", "-s", str(script), url]
        before = running.busy()
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if not running.is_alive():
            raise Failed(f"{running.server.name}, {work.name}: the server ended: {running.last_words()}")
        busy = running.busy() - before
        found = re.search(r"^\{.*\}$", ran.stdout, re.MULTILINE)
        if ran.returncode or not found:
            raise Failed(f"{running.server.name}, {work.name}: wrk says {(ran.stderr or ran.stdout).strip()}")
        said = json.loads(found[0])
        if said["status"] or said["socket"] or not said["requests"]:
            counts = f"{said['requests']} requests, {said['status']} answers that are errors, {said['socket']}"
            raise Failed(f"{running.server.name}, {work.name}: {counts} socket errors; {running.last_words()}")
        took = said["microseconds"] / 1e6
        return Figure(said["requests"] / took, tuple(said["latencies"]), busy / took, said["bytes"] / said["requests"])


def version(*command: str) -> str:
    """The first number of a version that a program prints."""
    if shutil.which(command[0]) is None:
        return "none"
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+(\.\d+)?", ran.stdout + ran.stderr)
    return found[0] if found else "unknown"


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "os": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "python": platform.python_version(),
        "nginx": version("nginx", "-v"),
        "wrk": version("wrk", "-v"),
        "etcd": version("etcd", "--version"),
    }


class Report:
    """What was measured, as tables, as JSON and as a plot."""

    def __init__(
        self, bench: Bench, done: Sequence[Work], servers: Sequence[Server], settings: Mapping[str, int]
    ) -> None:
        self._figures = bench.figures
        self._medians = {key: median(figures) for key, figures in bench.figures.items()}
        self._works = done
        self._servers = servers
        self._settings = settings
        self._fastest = max(figure.rate for figure in self._medians.values())
        self._machine = machine()

    def heading(self) -> str:
        here = self._machine
        versions = ", ".join(f"{name} {here[name]}" for name in ("nginx", "wrk", "etcd"))
        return f"{here['cpu']}, {here['cores']} cores, {here['os']}, Python {here['python']}, {versions}"

    def table(self) -> Iterator[str]:
        """Three lines for each work, a column for each server."""
        yield f"{'':<28}" + "".join(f"{server.name:>11}" for server in self._servers)
        for work in self._works:
            lines: dict[str, list[str]] = {"requests/s": [], "× nginx": [], "p99 ms": []}
            for server in self._servers:
                figure = self._medians.get((work.name, server.name))
                ratios = Goal("", work.name, server.name, "nginx", "").rounds(self._figures)
                lines["requests/s"].append(f"{figure.rate:,.0f}{self._mark(figure):<2}" if figure else "-  ")
                lines["× nginx"].append(f"{statistics.median(ratios):.3f}  " if ratios else "-  ")
                lines["p99 ms"].append(f"{figure.p99 / 1000:.2f}  " if figure else "-  ")
            yield work.title
            for name, cells in lines.items():
                yield f"{f'    {name}':<28}" + "".join(f"{cell:>11}" for cell in cells)
        yield f"* within {1 - NEAR:.0%} of the fastest figure, {self._fastest:,.0f}: limited by wrk, or nearly so"
        yield f"~ had less than {FULL:.0%} of its core: held up by wrk, the disk, or another process"

    def unsteady(self) -> Iterator[str]:
        """Whose rounds differ by much: the cores, or the paths between them, were not as fast in all of them."""
        for (work, server), rounds in self._figures.items():
            least, most = min(figure.rate for figure in rounds), max(figure.rate for figure in rounds)
            if most > STEADY * least:
                yield f"{server}, {work}: {least:,.0f} to {most:,.0f} requests/s over the rounds"

    def goals(self) -> Iterator[str]:
        """Those that were measured: median, least and most over the rounds, and what is wanted."""
        yield f"{'goal':<36} {'wanted':>8} {'median':>8} {'min':>8} {'max':>8}"
        for goal in GOALS:
            ratios = goal.rounds(self._figures)
            shown = [statistics.median(ratios), min(ratios), max(ratios)] if ratios else []
            cells = [f"{ratio:.3f}" for ratio in shown] or ["-"] * 3
            yield f"{goal.title:<36} {goal.wanted:>8}" + "".join(f" {cell:>8}" for cell in cells)

    def as_json(self) -> str:
        figures = [
            {
                "work": work,
                "server": server,
                "median": self._plain(self._medians[work, server]),
                "rounds": [self._plain(figure) for figure in rounds],
                "to_nginx": Goal("", work, server, "nginx", "").rounds(self._figures),
                "near_the_fastest": "*" in self._mark(self._medians[work, server]),
            }
            for (work, server), rounds in self._figures.items()
        ]
        goals = [
            {"goal": goal.title, "wanted": goal.wanted, "median": statistics.median(ratios), "rounds": ratios}
            for goal in GOALS
            if (ratios := goal.rounds(self._figures))
        ]
        whole = {"machine": self._machine, "settings": self._settings, "figures": figures, "goals": goals}
        whole["unsteady"] = list(self.unsteady())
        return json.dumps(whole, indent=2) + "\n"

    def as_svg(self) -> str:
        rows = {
            work.title: [
                Row(server.name, figure.rate, self._mark(figure), figure.latencies)
                for server in self._servers
                if (figure := self._medians.get((work.name, server.name)))
            ]
            for work in self._works
        }
        titles = {server.name: server.title for server in self._servers}
        heading = f"registryd and its peers: one core each, wrk -t1 -c{CONNECTIONS} on another"
        note = f"{self.heading()}; * limited by wrk, ~ had less than {FULL:.0%} of its core"
        return draw(heading, note, titles, {title: shown for title, shown in rows.items() if shown})

    def _mark(self, figure: Figure) -> str:
        near, held_up = figure.rate >= NEAR * self._fastest, figure.busy < FULL
        return "*" * near + "~" * held_up

    def _plain(self, figure: Figure) -> dict[str, float]:
        percentiles = dict(zip((f"{name}_us" for name in PERCENTILES), figure.latencies, strict=True))
        return {"rate": round(figure.rate, 1), **percentiles, "busy": round(figure.busy, 3), "size": round(figure.size)}


def chosen(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def arguments() -> argparse.Namespace:
    there = Path(tempfile.gettempdir())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=5, help="how long each run of wrk takes (whole seconds)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=100_000, help="how many are there in the mix")
    parser.add_argument("--only", type=chosen, help=f"works, of {','.join(work.name for work in works(10))}")
    parser.add_argument("--servers", type=chosen, help=f"servers, of {','.join(server.name for server in SERVERS)}")
    parser.add_argument("--json", type=Path, default=there / "registryd-load.json", help="where the figures go")
    parser.add_argument("--svg", type=Path, default=there / "registryd-load.svg", help="where the plot goes")
    asked = parser.parse_args()
    for name, known, given in [
        ("--only", [work.name for work in works(10)], asked.only),
        ("--servers", [server.name for server in SERVERS], asked.servers),
    ]:
        if unknown := set(given or ()) - set(known):
            parser.error(f"{name}: there is no {', '.join(sorted(unknown))}, only {', '.join(known)}")
    if asked.seconds < 1 or asked.rounds < 1 or asked.instances < 10:
        parser.error("--seconds and --rounds are at least 1, --instances is at least 10")
    return asked


def main() -> int:
    asked = arguments()
    if shutil.which("wrk") is None:
        print("wrk is not on the PATH: apt-get install wrk", file=sys.stderr)
        return 2
    servers = [server for server in SERVERS if asked.servers is None or server.name in asked.servers]
    for missing in filter(None, [server.missing() for server in servers]):
        print(missing, file=sys.stderr)
    servers = [server for server in servers if server.missing() is None]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the servers are ended then too
    os.sched_setaffinity(0, {WRKS_CORE})
    done = [work for work in works(asked.instances) if asked.only is None or work.name in asked.only]
    if not any(work.name in server.works for work in done for server in servers):
        print("none of these servers can do any of these works", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="registryd-load-") as folder:
        bench = Bench(servers, asked.seconds, asked.rounds, Path(folder))
        try:
            for work in done:
                bench.run(work)
        except Failed as failed:
            progress("")
            print(f"\r{failed}", file=sys.stderr)
            return 1
    progress("")
    print("\r", end="", file=sys.stderr, flush=True)
    settings = {
        "seconds": asked.seconds,
        "rounds": asked.rounds,
        "connections": CONNECTIONS,
        "instances": asked.instances,
    }
    report = Report(bench, done, servers, settings)
    asked.json.write_text(report.as_json())
    asked.svg.write_text(report.as_svg())
    print(report.heading(), *report.table(), "", *report.goals(), "", sep="\n")
    if unsteady := list(report.unsteady()):
        print("Not to be trusted, run again on a quiet machine:", *unsteady, "", sep="\n")
    print(f"figures: {asked.json}\nplot: {asked.svg}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
