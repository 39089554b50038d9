"""The file in which SQLite keeps what must outlive the process: the instances, what is remembered of those that are
gone, and a number above every index that was ever handed out. Synchronous; who must not wait has a thread for it.

What is written is written in one transaction, and is on the disk when `write` returns (WAL, synchronous=FULL). While it
is open nobody else can open it.
"""

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from registryd.core.model import Change, Kept, KeptGone, Override
from registryd.core.past import REMEMBERED_INSTANCES, REMEMBERED_SECONDS

NAME = "registryd.db"
#: What marks the file as ours (PRAGMA application_id: "rgyd"), and which form of it this is.
APPLICATION = 0x72677964
FORMAT = 2
#: Numbers that are put aside with each write: changes that time brings are numbered before they are written.
RESERVED = 1_000_000
#: Seconds to wait for whoever has the file open, who may be about to end.
PATIENCE = 1.0

#: What makes a file of the form after each out of it.
_MIGRATIONS = {
    1: "ALTER TABLE registry ADD COLUMN recovers_until INTEGER NOT NULL DEFAULT 0; "
    "ALTER TABLE gone ADD COLUMN service_name TEXT NOT NULL DEFAULT ''; "
    "ALTER TABLE gone ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
}
_GONE = "SELECT instance_id, at, generation, override, {whose} FROM gone ORDER BY rowid"
#: Bytes in the WAL after which they are brought into the file itself.
MOST_BYTES = 4_000_000

# The rows of the first two tables stand in the order in which they came, by their rowid.
_SCHEMA = """
CREATE TABLE instances (instance_id TEXT NOT NULL UNIQUE, generation INTEGER NOT NULL, record TEXT NOT NULL);
CREATE TABLE gone (instance_id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL, generation INTEGER NOT NULL, override TEXT,
                   service_name TEXT NOT NULL DEFAULT '', owner TEXT NOT NULL DEFAULT '');
CREATE TABLE registry (next_index INTEGER NOT NULL, last_index INTEGER, recovers_until INTEGER NOT NULL DEFAULT 0);
INSERT INTO registry VALUES (1, NULL, 0);
"""


class CannotUseState(Exception):
    """The state cannot be used; the text is one line that says why and what to do."""


class StateUnavailable(CannotUseState):
    """The disk does not give it, which may be otherwise later."""


class Damaged(Exception):
    """What is in the file cannot be read."""


class Contents(NamedTuple):
    """What is in the file."""

    #: In order of registration.
    instances: list[Kept]
    #: In the order in which they went.
    gone: list[KeptGone]
    #: Every index ever handed out is below this one.
    next_index: int
    #: The last one, where the former life has ended in order.
    last_index: int | None
    #: Until when (wall clock, seconds since 1970) services may be about to register again, as the state before this one
    #: was lost.
    recovers_until: int


class StateFile:
    """The file in `folder`. Used by one thread at a time."""

    def __init__(self, folder: Path, wall: Callable[[], float] = time.time) -> None:
        self.path = folder / NAME
        self._wall = wall
        self._db: sqlite3.Connection | None = None
        #: Which file it is: whoever puts another in its place has not told us.
        self._identity = (0, 0)
        #: How large the WAL may be before it is brought in; and why it could not be, where it could not.
        self._most_bytes = MOST_BYTES
        self.lagging: str | None = None
        #: Bytes that it takes on the disk, as of the last write.
        self.size = 0

    def open(self) -> None:
        """Opens the file, or makes a new one. Raises CannotUseState, Damaged."""
        if not self.path.parent.is_dir():
            raise CannotUseState(f"there is no directory {self.path.parent}; make it, or set --state-dir")
        with self._opening():
            self._check_whole()
            if not self.path.exists():
                self._make()
            self._connect()
            self._check_form()
            self._prepare()

    def is_there(self) -> bool:
        """Whether there is a state, or something is left of one."""
        return self.path.exists() or self._wal().exists()

    def look(self) -> None:
        """Opens a file of ours, and changes nothing in it but what a kill has left half done. Raises CannotUseState,
        Damaged."""
        with self._opening():
            self._check_whole()
            self._connect()
            self._check_form()

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._disconnect()
            raise self._explained(error) from error
        except BaseException:
            self._disconnect()
            raise

    def load(self) -> Contents:
        """All that is in it. Raises Damaged."""
        db = self._opened()
        decode, decode_override = msgspec.json.Decoder(Kept).decode, msgspec.json.Decoder(Override | None).decode
        try:
            faults = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if faults != "ok":
                raise Damaged(faults)
            (next_index, last_index) = db.execute("SELECT next_index, last_index FROM registry").fetchone()
            has_it = self._form() > 1
            (recovers_until,) = db.execute("SELECT recovers_until FROM registry").fetchone() if has_it else (0,)
            instances = [decode(record) for (record,) in db.execute("SELECT record FROM instances ORDER BY rowid")]
            whose = "service_name, owner" if has_it else "'', ''"
            rows = db.execute(_GONE.format(whose=whose))
            gone = [
                KeptGone(name, at, life, decode_override(laid or "null"), *of) for name, at, life, laid, *of in rows
            ]
        except sqlite3.Error as error:
            raise self._explained(error) from error
        except (msgspec.MsgspecError, TypeError, UnicodeError) as error:
            raise Damaged(str(error)) from error
        return Contents(instances, gone, next_index, last_index, recovers_until)

    def keep_recovering(self, until: int) -> None:
        """Keeps until when (wall clock, seconds since 1970) nobody can know what there is. Raises CannotUseState."""
        try:
            self._opened().execute("UPDATE registry SET recovers_until = ?", (until,))
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def write(self, changes: Sequence[Change], index: int, last_index: int | None = None) -> None:
        """Keeps changes, all of them or none. `index` is the last that was handed out, `last_index` the same where
        there will be no more. Raises sqlite3.Error, OSError.

        After a failure it goes on with the same connection: only that knows that what has come to the WAL before a sync
        failed is not to count, and writes over it the next time."""
        db = self._opened()
        try:
            self._check_identity()
            db.execute("BEGIN IMMEDIATE")
            goes = [self._apply(db, change) for change in changes if not change.is_passing]
            if any(goes):
                self._forget(db)
            next_index = index + (RESERVED if last_index is None else 1)
            db.execute("UPDATE registry SET next_index = max(next_index, ?), last_index = ?", (next_index, last_index))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # then it is rolled back by itself
                    db.execute("ROLLBACK")
            raise
        if self._wal().stat().st_size >= self._most_bytes:
            self._bring_in(db)
        with contextlib.suppress(OSError):  # what was written is written
            self.size = self.path.stat().st_size + self._wal().stat().st_size

    def put_aside(self, index: int) -> None:
        """Puts numbers above `index` aside before any is handed out. Otherwise a life whose disk takes nothing would
        leave no trace, and the next one, should the wall clock have gone back, would hand out its numbers again. A disk
        that does not take even this is found by the first write."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self.write((), index)

    def _bring_in(self, db: sqlite3.Connection) -> None:
        """Brings what is in the WAL into the file. By itself SQLite would do so in COMMIT, which would fail with it
        although what it was for is on the disk: in the WAL. There it stays if this fails (`lagging` says why), until
        the WAL has grown by as much again."""
        try:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._most_bytes, self.lagging = MOST_BYTES, None
        except sqlite3.Error as error:
            self._most_bytes, self.lagging = self._wal().stat().st_size + MOST_BYTES, str(error)

    def close(self) -> None:
        """Closes the file."""
        self._disconnect()

    def set_aside(self) -> Path:
        """Puts a damaged file, with all that belongs to it, under another name; gives that back. Raises OSError."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._wall()))
        for number in itertools.count():
            aside = self.path.with_name(f"{NAME}.damaged-{stamp}" + (f"-{number}" if number else ""))
            if not aside.exists():
                break
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self.path}{suffix}", f"{aside}{suffix}")  # noqa: PTH104 - these are no paths but names
        return aside

    def _opened(self) -> sqlite3.Connection:
        assert self._db is not None, "it is open"
        return self._db

    def _connect(self) -> None:
        self._db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False,
        )  # fmt: skip
        # Nobody else is to write, and then WAL needs no file in shared memory, which a full disk has no room for.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA temp_store = MEMORY")
        self._identity = self._identify()

    def _prepare(self) -> None:
        """Sets up a file of ours to be written to."""
        db = self._opened()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 0"):
            db.execute(f"PRAGMA {pragma}")
        db.execute(f"PRAGMA journal_size_limit = {MOST_BYTES}")  # what a mass has made it grow to is given back
        for before in range(self._form(), FORMAT):
            db.executescript(f"BEGIN IMMEDIATE; {_MIGRATIONS[before]}; PRAGMA user_version = {before + 1}; COMMIT;")

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _identify(self) -> tuple[int, int]:
        stat = self.path.stat()
        return stat.st_dev, stat.st_ino

    def _check_identity(self) -> None:
        if self._identify() != self._identity:
            raise FileNotFoundError(f"{self.path} has been taken away, or another put in its place")

    def _check_whole(self) -> None:
        """Raises Damaged where there was a file once, and it has been taken away or cut to nothing."""
        if not self.path.exists():
            if self._wal().exists():
                raise Damaged(f"it is gone, and {self._wal().name} is left")
        elif not self.path.stat().st_size:
            raise Damaged("it is empty")

    def _wal(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")

    def _make(self) -> None:
        """Makes a new file: under another name, so that one that is cut to nothing is never one that was not
        finished."""
        new = self.path.with_name(f"{NAME}.new")
        new.unlink(missing_ok=True)
        marks = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT};"
        try:
            with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
                db.executescript(f"PRAGMA synchronous = FULL; BEGIN IMMEDIATE; {_SCHEMA} {marks} COMMIT;")
            new.rename(self.path)
        finally:
            new.unlink(missing_ok=True)
        # It is not there for good before its folder says so.
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _form(self) -> int:
        form: int = self._opened().execute("PRAGMA user_version").fetchone()[0]
        return form

    def _check_form(self) -> None:
        (application,) = self._opened().execute("PRAGMA application_id").fetchone()
        form = self._form()
        if application != APPLICATION:
            raise CannotUseState(f"{self.path} is not a file of registryd; move it away, or set --state-dir")
        if form > FORMAT:
            raise CannotUseState(
                f"{self.path} was written by a newer registryd (form {form}; this one knows {FORMAT}); install that "
                "again, or set --state-dir"
            )

    def _explained(self, error: sqlite3.Error | OSError) -> Exception:
        """What to raise when the file cannot be opened."""
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return CannotUseState(f"{self.path} is in use by another registryd; stop that one, or set --state-dir")
        # An error of no kind of SQLite's own: a table or column is not there, although the file says that it is ours.
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")) or name == "SQLITE_ERROR":
            return Damaged(str(error))
        if name.startswith(("SQLITE_IOERR", "SQLITE_FULL")):
            return StateUnavailable(f"cannot use {self.path}: {error}; see to its disk, or set --state-dir")
        return CannotUseState(
            f"cannot use {self.path}: {error}; see that this user may write to it, or set --state-dir"
        )

    def _apply(self, db: sqlite3.Connection, change: Change) -> bool:
        """Does what a change has done; gives back whether the instance goes. A change of another life than the one that
        is there does nothing: a takeover can overtake the end of its predecessor."""
        instance = change.instance
        key = (instance.instance_id, instance.generation)
        if change.kind == "registered":
            db.execute(
                "INSERT INTO instances VALUES (?, ?, ?) ON CONFLICT (instance_id) "
                "DO UPDATE SET generation = excluded.generation, record = excluded.record",
                (*key, _record(change)),
            )
            db.execute("DELETE FROM gone WHERE instance_id = ?", key[:1])
        elif change.kind == "updated":
            db.execute(
                "UPDATE instances SET record = ? WHERE instance_id = ? AND generation = ?", (_record(change), *key)
            )
        elif db.execute("DELETE FROM instances WHERE instance_id = ? AND generation = ?", key).rowcount:
            override = change.override and _json(_timeless(change.override))
            row = (key[0], change.at, key[1], override, instance.service_name, instance.owner)
            db.execute("INSERT OR REPLACE INTO gone VALUES (?, ?, ?, ?, ?, ?)", row)
            return True
        return False

    def _forget(self, db: sqlite3.Connection) -> None:
        """Forgets who has been gone for too long, and the longest gone where there are too many."""
        since = int(self._wall() - REMEMBERED_SECONDS)
        db.execute(
            "DELETE FROM gone WHERE rowid < (SELECT rowid FROM gone WHERE at > ? ORDER BY rowid LIMIT 1)", (since,)
        )
        db.execute("DELETE FROM gone WHERE rowid <= (SELECT max(rowid) FROM gone) - ?", (REMEMBERED_INSTANCES,))


def _record(change: Change) -> str:
    return _json(Kept(change.instance, change.last_heartbeat, _timeless(change.override)))


def _timeless(override: Override | None) -> Override | None:
    """Without what is on the lease clock of this life."""
    return override and msgspec.structs.replace(override, ends_at=None)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[StateFile]:
    """The file in a folder, for someone who wants a look at it. Raises CannotUseState, Damaged."""
    file = StateFile(folder)
    if not file.is_there():
        raise CannotUseState(f"there is no {file.path}; set --state-dir")
    file.look()
    try:
        yield file
    finally:
        file.close()
