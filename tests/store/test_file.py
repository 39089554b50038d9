"""The file of the state: what is written is there, and what cannot be read is never taken for the truth."""

import functools
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.core import past
from registryd.core.model import Change, Command, Deregister, Report, SetOverride, Update
from registryd.core.state import State
from registryd.store import file as file_module
from registryd.store.file import (
    APPLICATION,
    FORMAT,
    NAME,
    RESERVED,
    CannotUseState,
    Contents,
    Damaged,
    StateFile,
    StateUnavailable,
    opened,
)


def history(*commands: Command) -> list[Change]:
    """The changes that these commands make, one after the other."""
    state = new_state()
    done: list[Change] = []
    for command in commands:
        changes = state.decide(command, NOW, WALL)
        done += state.commit(changes, NOW, WALL)
    return done


def written(folder: Path, changes: Iterable[Change], wall: float = WALL) -> Contents:
    """What is in the file after these changes, each written by itself."""
    file = StateFile(folder, lambda: wall)
    file.open()
    for change in changes:
        file.write([change], change.index)
    file.close()
    file.open()
    contents = file.load()
    file.close()
    return contents


def restored(contents: Contents) -> State:
    state = new_state()
    state.restore(contents.instances, contents.gone, NOW, WALL)
    state.check()
    return state


def test_what_is_written_is_there_in_its_order(tmp_path: Path) -> None:
    contents = written(
        tmp_path,
        history(
            a_registration(instance_id="b", metadata={"a": "ü"}, tags=("x",), zone="eu"),
            a_registration(instance_id="a"),
            Update("b", Report(status="down")),
            a_registration(instance_id="b", ttl=5.0),
            SetOverride("a", "draining", "deploy", 60.0),
        ),
    )

    assert [kept.instance.instance_id for kept in contents.instances] == ["b", "a"]
    state = restored(contents)
    assert (state.lease("b").instance.ttl, state.lease("b").instance.generation) == (5.0, 2)
    laid = state.lease("a").override
    assert laid is not None
    assert (state.lease("a").status, laid.ends_at) == ("draining", NOW + 60)
    assert state.lease("a").is_restored


def test_who_is_gone_is_remembered_with_generation_and_override(tmp_path: Path) -> None:
    contents = written(
        tmp_path, history(a_registration(), SetOverride("i1", "maintenance", "why", None), Deregister("i1"))
    )

    assert contents.instances == []
    (change,) = restored(contents).decide(a_registration(), NOW, WALL)
    assert (change.instance.generation, change.status) == (2, "maintenance")


def test_the_end_of_a_life_does_not_end_the_next_one(tmp_path: Path) -> None:
    first, second = history(a_registration(), a_registration())
    late = msgspec.structs.replace(first, kind="expired")
    contents = written(tmp_path, [first, second, late])

    assert [kept.instance.generation for kept in contents.instances] == [2]
    assert contents.gone == []


def test_who_has_been_gone_for_an_hour_or_is_one_too_many_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"i{n}" for n in range(5)]
    changes = history(*(a_registration(instance_id=i) for i in ids), *map(Deregister, ids))
    monkeypatch.setattr(file_module, "REMEMBERED_INSTANCES", 3)
    assert [gone.instance_id for gone in written(tmp_path, changes).gone] == ["i2", "i3", "i4"]

    later = int(WALL + past.REMEMBERED_SECONDS + 1)
    more = [msgspec.structs.replace(change, at=later) for change in history(a_registration(), Deregister("i1"))]
    assert [gone.instance_id for gone in written(tmp_path, more, wall=later).gone] == ["i1"]


def test_no_number_is_handed_out_twice(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.open()
    file.write([], 500)
    assert file.load()[2:4] == (500 + RESERVED, None)
    file.write([], 400)
    assert file.load().next_index == 500 + RESERVED, "it never goes back"
    file.write([], 600, last_index=600)
    assert file.load().last_index == 600
    file.close()


class BrokenFile(StateFile):
    """Fails in the middle of a write."""

    def _forget(self, db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("disk I/O error")


def test_a_write_that_fails_has_changed_nothing(tmp_path: Path) -> None:
    changes = history(a_registration(), a_registration(instance_id="i2"), Deregister("i2"))
    file = BrokenFile(tmp_path)
    file.open()
    with pytest.raises(sqlite3.OperationalError):
        file.write(changes, 1)
    file.write(changes[1:2], 1)

    contents = file.load()
    assert [kept.instance.instance_id for kept in contents.instances] == ["i2"]
    assert contents.gone == []
    file.close()


def test_a_file_that_is_taken_away_is_missed(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.open()
    file.path.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        file.write(history(a_registration()), 1)
    with pytest.raises(FileNotFoundError):
        file.write(history(a_registration()), 1)
    (tmp_path / "elsewhere").rename(file.path)
    file.write(history(a_registration()), 1)
    file.close()


def test_only_one_registry_uses_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "PATIENCE", 0.0)
    file = StateFile(tmp_path)
    file.open()
    with pytest.raises(CannotUseState, match="is in use by another registryd; stop that one, or set --state-dir"):
        StateFile(tmp_path).open()
    file.close()


@pytest.mark.parametrize("size", [1, 50, 4096, 9000])
def test_a_file_that_was_overwritten_is_damaged(tmp_path: Path, size: int) -> None:
    written(tmp_path, history(*(a_registration(instance_id=f"i{n}") for n in range(100))))
    path = tmp_path / NAME
    raw = bytearray(path.read_bytes())
    raw[:size] = b"x" * size
    path.write_bytes(raw)
    with pytest.raises(Damaged), opened(tmp_path) as file:
        file.load()


def test_a_record_that_makes_no_sense_is_damage(tmp_path: Path) -> None:
    written(tmp_path, history(a_registration()))
    with closing(sqlite3.connect(tmp_path / NAME)) as db, db:
        db.execute("UPDATE instances SET record = '{}'")
    file = StateFile(tmp_path)
    file.open()
    with pytest.raises(Damaged, match="missing required field"):
        file.load()
    aside = file.set_aside()
    file.close()
    assert aside.exists()
    assert not file.path.exists()


def test_a_newer_form_and_a_strange_file_are_left_alone(tmp_path: Path) -> None:
    for pragmas, words in [
        (
            f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT + 1};",
            "was written by a newer registryd",
        ),
        ("PRAGMA application_id = 7;", "is not a file of registryd; move it away, or set --state-dir"),
    ]:
        with closing(sqlite3.connect(tmp_path / NAME)) as db:
            db.executescript(f"CREATE TABLE IF NOT EXISTS t (x); {pragmas}")
        before = (tmp_path / NAME).read_bytes()
        with pytest.raises(CannotUseState, match=words):
            StateFile(tmp_path).open()
        with pytest.raises(CannotUseState, match=words), opened(tmp_path):
            pass
        assert (tmp_path / NAME).read_bytes() == before, "it is none of our business"


def test_a_file_of_the_form_before_is_taken_over(tmp_path: Path) -> None:
    before = written(tmp_path, history(a_registration()))
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        for column in (
            "registry DROP COLUMN recovers_until",
            "gone DROP COLUMN service_name",
            "gone DROP COLUMN owner",
        ):
            db.execute(f"ALTER TABLE {column}")
        db.execute("PRAGMA user_version = 1")
    with opened(tmp_path) as file:
        assert file.load() == before

    assert written(tmp_path, []) == before
    with closing(sqlite3.connect(tmp_path / NAME)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)


def test_what_a_disk_does_not_give_is_not_held_for_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a whole file would be set aside, and a registry that knows nobody begin."""
    written(tmp_path, history(a_registration()))
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_READ"
    file = StateFile(tmp_path)
    file.open()
    with monkeypatch.context() as disk:
        disk.setattr(file, "_form", raising(error))
        with pytest.raises(StateUnavailable, match="disk I/O error; see to its disk, or set --state-dir"):
            file.load()
    file.close()
    assert not list(tmp_path.glob("*.damaged-*"))


def raising(error: Exception) -> Callable[[], int]:
    def fail() -> int:
        raise error

    return fail


def test_the_wal_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "MOST_BYTES", 300_000)
    file = StateFile(tmp_path)
    file.open()
    for n in range(60):
        big = [a_registration(instance_id=f"i{n}-{m}", metadata={"a": "x" * 1000}) for m in range(50)]
        file.write(history(*big), n)
        assert (tmp_path / f"{NAME}-wal").stat().st_size < 2 * 300_000
    assert file.path.stat().st_size > 2_000_000
    file.close()


def test_a_checkpoint_that_fails_is_no_failed_write_and_is_not_tried_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_module, "MOST_BYTES", 100_000)

    class Failing(sqlite3.Connection):
        tries = 0
        fails = True

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            if "wal_checkpoint" in sql:
                Failing.tries += 1
                if Failing.fails:
                    raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *args)

    connect = functools.partial(sqlite3.connect, factory=Failing)
    monkeypatch.setattr(sqlite3, "connect", connect)
    file = StateFile(tmp_path)
    file.open()
    for n in range(100):
        file.write(history(a_registration(instance_id=f"i{n}", metadata={"a": "x" * 1000})), n)
    assert file.lagging == "disk I/O error"
    assert 3 <= Failing.tries < 30
    Failing.fails = False
    while file.lagging:
        n += 1
        file.write(history(a_registration(instance_id=f"i{n}")), n)
    file.close()
    assert len(restored(written(tmp_path, []))) == n + 1


def test_a_first_start_that_is_cut_off_leaves_no_damaged_state(tmp_path: Path) -> None:
    """A full disk, here: a file may have no byte."""
    program = (
        "import resource, signal, sys; from pathlib import Path; from registryd.store.file import StateFile; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
        "StateFile(Path(sys.argv[1])).open()"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "StateUnavailable: cannot use " in ran.stderr
    assert list(tmp_path.iterdir()) == []
    assert written(tmp_path, []).recovers_until == 0


def test_what_is_left_of_a_state_is_looked_at_like_one(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}-wal").write_bytes(b"left")
    with pytest.raises(Damaged, match=r"it is gone, and registryd\.db-wal is left"), opened(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(CannotUseState, match=r"there is no directory .*; make it, or set --state-dir"):
        StateFile(tmp_path / "nowhere").open()


def test_a_hundred_thousand_come_back_with_their_leases(tmp_path: Path) -> None:
    (pattern,) = history(a_registration())
    many = [
        msgspec.structs.replace(pattern, instance=msgspec.structs.replace(pattern.instance, instance_id=f"i{n}"))
        for n in range(100_000)
    ]
    file = StateFile(tmp_path)
    file.open()
    file.write(many, 1)
    file.close()
    file.open()

    assert len(restored(file.load())) == 100_000
    file.close()
