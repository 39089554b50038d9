"""Stand-ins that tests share: a clock that a test moves, a store that a test can look into and hold up."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from registryd.clock import MonotonicIOLoop
from registryd.core.choice import Choice
from registryd.core.leases import Lease
from registryd.core.limits import Limits
from registryd.core.model import Change, Register
from registryd.core.state import State
from registryd.logs.entries import Entry
from registryd.registry import Registry
from registryd.store.base import MemoryStore

NOW = 1000.0
FIRST_INDEX = 1_700_000_000_000_000
WALL = 1_705_314_600  # 2024-01-15T10:30:00Z


class ManualClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.moment = 1000.0
        self.wall_moment = WALL

    def now(self) -> float:
        return self.moment

    def wall(self) -> int:
        return self.wall_moment + int(self.moment - 1000.0)

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "time does not go back"
        self.moment += seconds


class TimeTravel(asyncio.SelectorEventLoop):
    """An event loop whose time is a number: it never waits for a timer, it moves its clock to the next one."""

    def __init__(self) -> None:
        self.moment = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.moment

    def _run_once(self) -> None:
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        if timers and not self._ready:  # type: ignore[attr-defined]
            self.moment = max(self.moment, min(timers))
        super()._run_once()  # type: ignore[misc]


def travel(story: Callable[[TimeTravel], Awaitable[None]]) -> None:
    """Runs a story on a loop of its own whose time passes as fast as it can."""
    with asyncio.Runner(loop_factory=TimeTravel) as runner:

        async def tell() -> None:
            MonotonicIOLoop()
            loop = asyncio.get_running_loop()
            assert isinstance(loop, TimeTravel)
            await story(loop)

        runner.run(tell())


class RecordingStore(MemoryStore):
    """Keeps every change, in the order in which it was given them. `hold()` makes `append` wait for `release()`."""

    kind = "recording"

    def __init__(self, index: int = FIRST_INDEX) -> None:
        super().__init__(index)
        self.changes: list[Change] = []
        self.waiting = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._failure: Exception | None = None

    def hold(self) -> None:
        self._free.clear()
        self.waiting.clear()
        self.is_immediate = False

    def release(self) -> None:
        self._free.set()
        self.is_immediate = self._failure is None

    def fail_with(self, failure: Exception | None) -> None:
        self._failure = failure
        self.is_immediate = failure is None and self._free.is_set()

    async def append(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        self.waiting.set()
        await self._free.wait()
        if self._failure is not None:
            raise self._failure
        return self.record(changes)

    def record(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        numbered = super().record(changes)
        self.changes += numbered
        return numbered


class RecordingOutput:
    """Keeps every entry of the log."""

    lost = 0

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_closed = False

    def write(self, entry: Entry) -> None:
        self.entries.append(entry)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    @property
    def messages(self) -> list[str]:
        return [entry.message for entry in self.entries]


def new_state(limits: Limits | None = None) -> State:
    return State(default_ttl=30.0, limits=limits or Limits())


def a_registration(service_name: str = "users", instance_id: str | None = "i1", **more: object) -> Register:
    return Register(
        service_name=service_name,
        base_url="http://10.0.0.5:8000",
        instance_id=instance_id,
        **more,  # type: ignore[arg-type]
    )


def up(registry: Registry, service_name: str) -> list[Lease]:
    """What a reader gets who does not say what he wants."""
    return registry.choose(service_name, Choice())


def replay(changes: Iterable[Change]) -> State:
    """A new state in which a history of changes has come true, each instance with a lease that begins now."""
    state = new_state()
    for change in changes:
        state.commit((change,), now=0.0, wall=change.last_heartbeat)
    return state
