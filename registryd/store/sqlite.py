"""The store that outlives the process. What it is given is on the disk before anyone has an answer; the disk has a
thread of its own, so that whoever does not ask for a change never waits for it.

When a write fails, those who asked for it are told, and nothing has changed. What time has changed (a lease has ended)
is true all the same: it is kept in memory and written with the next write that succeeds. A probe comes every second, so
the store notices by itself when the disk is well again.
"""

import asyncio
import contextlib
import functools
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import msgspec

from registryd.core.errors import StoreUnavailable
from registryd.core.model import Change
from registryd.store.base import Writes
from registryd.store.file import CannotUseState, Contents, Damaged, StateFile

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two tries of a disk that does not take what it is given.
RETRY = 1.0
#: Seconds after which a write that is still under way is something that a human should know of.
SLOW = 5.0


class _Write(NamedTuple):
    """Changes that are to be written, and who waits for it, if anyone does."""

    changes: Sequence[Change]
    written: "asyncio.Future[None] | None"


class Former(NamedTuple):
    """The former life, as far as the store knows of it."""

    contents: Contents
    #: For how many seconds services may be about to register again, as a life before this one cannot be read any more.
    recovers_for: float


class SqliteStore:
    """Keeps changes in a StateFile that is open."""

    kind = "sqlite"
    is_immediate = False

    def __init__(self, file: StateFile, index: int) -> None:
        self.index = index
        self.writes = Writes()
        self._file = file
        self._disk = DiskThread()
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Write] = []
        #: Since when it has been writing, on the loop's clock; None while it is not.
        self._since: float | None = None
        #: The same on a finer clock.
        self._begun = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_failing = False
        #: Whether what is on the disk cannot be brought into the file, which nobody has to wait for.
        self._is_lagging = False
        self._is_closing = False
        self._retry: asyncio.TimerHandle | None = None

    @property
    def trouble(self) -> str | None:
        """What is wrong with the disk, as a word for /status; None where nothing is."""
        if self._is_failing:
            return "store_unavailable"
        if self._is_lagging:
            return "store_lagging"
        return "store_slow" if self._since is not None and self._loop.time() - self._since > SLOW else None

    async def append(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        """Writes changes, then numbers them. Raises StoreUnavailable, and then nothing of them is kept."""
        if self._is_closing:  # whoever asks so late has been cut off
            raise StoreUnavailable
        written: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(_Write(changes, written))
        self._go_on()
        await written
        return tuple(map(self._number, changes))

    def record(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Numbers changes, and writes them as soon as it can."""
        numbered = tuple(map(self._number, changes))
        if numbered:
            self._waiting.append(_Write(numbered, None))
            if not self._is_failing:
                self._go_on()
        return numbered

    def probe(self) -> None:
        """Writes, if only to see whether it can."""
        self._waiting.append(_Write((), None))
        self._go_on()

    async def close(self) -> None:
        """Writes what is left, and that this life has ended in order."""
        self._is_closing = True
        await self._idle.wait()
        if self._retry is not None:  # of a write that has failed meanwhile, too
            self._retry.cancel()
        left = [change for write in self._waiting for change in write.changes]
        try:
            await self._on_disk(self._file.write, left, self.index, self.index)
        except (sqlite3.Error, OSError) as error:
            self._leave_unwritten(left, error)
        await self._on_disk(self._file.close)
        self._disk.end()

    def _leave_unwritten(self, left: Sequence[Change], error: Exception) -> None:
        logger.error(
            "cannot write the last of the state to %s: %s; instances that have gone may be back after the restart, "
            "until their leases end again changes=%d", self._file.path, error, len(left),
            extra={"event": "store_unavailable"},
        )  # fmt: skip

    def _number(self, change: Change) -> Change:
        self.index += 1
        return msgspec.structs.replace(change, index=self.index)

    async def _on_disk(self, do: Callable[..., T], *args: Any) -> T:
        return await asyncio.wrap_future(self._disk.submit(do, *args))

    def _go_on(self) -> None:
        """Writes all that waits, in one go, unless a write is under way: then that comes next."""
        if self._since is not None or not self._waiting or (self._is_closing and self._idle.is_set()):
            return
        under_way, self._waiting = self._waiting, []
        self._since, self._begun = self._loop.time(), perf_counter()
        self._idle.clear()
        changes = [change for write in under_way for change in write.changes]
        writing = asyncio.ensure_future(self._on_disk(self._file.write, changes, self.index))
        writing.add_done_callback(functools.partial(self._end_write, under_way))

    def _end_write(self, under_way: Sequence[_Write], writing: "asyncio.Future[None]") -> None:
        self.writes.durations.note(perf_counter() - self._begun)
        self.writes.size = self._file.size
        self._since = None
        error = None if writing.cancelled() else writing.exception()
        self.writes.failed += error is not None
        for write in under_way:
            if write.written is not None and not write.written.done():
                if error is None:
                    write.written.set_result(None)
                else:
                    write.written.set_exception(StoreUnavailable())
        if error is None:
            self._succeed()
        else:
            self._waiting[:0] = [write for write in under_way if write.written is None and write.changes]
            self._fail(error)
        # After a failure only someone who waits for an answer makes it try again before the time.
        if error is None or any(write.written is not None for write in self._waiting):
            self._go_on()
        if self._since is None:
            self._idle.set()

    def _succeed(self) -> None:
        if self._is_failing:
            self._is_failing = False
            logger.warning("%s can be written to again", self._file.path, extra={"event": "store_recovered"})
        if self._file.lagging and not self._is_lagging:
            logger.error(
                "cannot bring what is in %s-wal into %s: %s; nothing is lost, but that file grows; see to the disk",
                self._file.path, self._file.path, self._file.lagging, extra={"event": "store_unavailable"},
            )  # fmt: skip
        self._is_lagging = bool(self._file.lagging)

    def _fail(self, error: BaseException) -> None:
        if not self._is_failing:
            self._is_failing = True
            # What is no fault of the disk is one of ours, and its traceback is wanted.
            is_fault = not isinstance(error, sqlite3.Error | OSError)
            logger.error(
                "cannot write to %s: %s; registrations and other changes are refused until that is mended, reads and "
                "heartbeats go on", self._file.path, error,
                extra={"event": "store_unavailable"}, exc_info=error if is_fault else None,
            )  # fmt: skip
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.call_later(RETRY, self.probe)


def recover(file: StateFile, seconds: float, wall: float) -> Former:
    """Opens a file and loads what is in it. One that cannot be read is set aside, and a new one made: then, for so many
    seconds and through further restarts, nobody can know who is alive. Raises CannotUseState."""
    try:
        file.open()
        contents = file.load()
        return Former(contents, min(seconds, max(0.0, contents.recovers_until - wall)))
    except Damaged as error:
        damage = error
    file.close()
    try:
        aside = file.set_aside()
        file.open()
        file.keep_recovering(int(wall + seconds) + 1)
        contents = file.load()
    except (OSError, Damaged) as error:
        raise CannotUseState(f"{file.path} is damaged, and cannot be replaced: {error}; set --state-dir") from error
    logger.error(
        "the state in %s cannot be read: %s; it is kept as %s, and the registry begins anew: readers are told to wait "
        "while the services register again", file.path, damage, aside, extra={"event": "state_damaged"},
    )  # fmt: skip
    return Former(contents, seconds)


class DiskThread:
    """One thread that does one thing after the other. The process can end while it hangs, as a disk may for ever."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="disk", daemon=True).start()

    def submit(self, do: Callable[..., T], *args: Any) -> "Future[T]":
        """Has something done soon."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                result = do(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._tasks.put(run)
        return future

    def end(self) -> None:
        """Ends the thread after what it has to do."""
        self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            with contextlib.suppress(RuntimeError):  # whoever asked has gone, and his loop with him
                task()
