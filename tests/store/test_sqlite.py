"""The store on the disk: what it does while the disk is slow, and when it fails."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import ExpectLog
from support import FIRST_INDEX, NOW, WALL, ManualClock, a_registration, new_state, up

from registryd.core.errors import StoreUnavailable
from registryd.core.limits import Limits
from registryd.core.model import Change, Deregister, Kept, Report, SetOverride, Update
from registryd.core.state import State
from registryd.feed import Feed
from registryd.registry import Registry
from registryd.store import sqlite as sqlite_module
from registryd.store.file import StateFile
from registryd.store.sqlite import SqliteStore, recover


class SlowFile(StateFile):
    """A file on a disk that can be held up, and can fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.free = threading.Event()
        self.free.set()
        self.failure: Exception | None = None
        self.writes: list[int] = []

    def write(self, changes: Sequence[Change], index: int, last_index: int | None = None) -> None:
        assert self.free.wait(20)
        if self.failure is not None:
            raise self.failure
        self.writes.append(len(changes))
        super().write(changes, index, last_index)


class House:
    """A registry over such a file."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.clock = ManualClock()
        self.file = SlowFile(folder)
        former = recover(self.file, 30.0, WALL)
        self.state = State(default_ttl=30.0, limits=limits or Limits())
        self.state.restore(former.contents.instances, former.contents.gone, self.clock.now(), self.clock.wall())
        self.store = SqliteStore(self.file, FIRST_INDEX)
        self.feed = Feed(FIRST_INDEX)
        self.registry = Registry(self.state, self.store, self.feed, self.clock)

    def held(self) -> list[str]:
        return [lease.instance.instance_id for lease in up(self.registry, "users")]


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_reads_and_heartbeats_do_not_wait_for_the_disk(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.registry.register(a_registration())
    house.file.free.clear()
    waiting = asyncio.ensure_future(house.registry.register(a_registration(instance_id="i2")))
    await settled()

    assert house.held() == ["i1"], "what is not kept yet is not listed"
    assert house.registry.renew("i1").expires_at == house.clock.now() + 30
    house.clock.advance(31)
    assert house.held() == [], "an expiry waits for nobody"
    house.file.free.set()
    await waiting
    assert house.held() == ["i2"]
    await house.store.close()
    assert House(tmp_path).held() == ["i2"]


async def test_those_who_ask_meanwhile_share_one_write(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.file.free.clear()
    asked = [asyncio.ensure_future(house.registry.register(a_registration(instance_id=f"i{n}"))) for n in range(100)]
    await settled()
    house.file.free.set()
    await asyncio.gather(*asked)

    assert house.file.writes == [1, 99]
    assert len(house.held()) == 100
    await house.store.close()


async def test_decisions_that_depend_on_each_other_are_taken_one_after_the_other(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.file.free.clear()
    first = asyncio.ensure_future(house.registry.register(a_registration(instance_id="x")))
    await settled()
    again = [asyncio.ensure_future(house.registry.register(a_registration())) for _ in range(3)]
    gone = asyncio.ensure_future(house.registry.deregister(Deregister("i1")))
    house.file.free.set()
    await first
    leases = await asyncio.gather(*again)
    await gone

    assert [lease.instance.generation for lease in leases] == [1, 2, 3]
    assert house.held() == ["x"]
    await house.store.close()


async def test_the_last_room_is_given_once(tmp_path: Path) -> None:
    house = House(tmp_path, Limits(instances=3))
    house.file.free.clear()
    asked = [asyncio.ensure_future(house.registry.register(a_registration(instance_id=f"i{n}"))) for n in range(5)]
    await settled()
    house.file.free.set()
    given = await asyncio.gather(*asked, return_exceptions=True)

    assert [isinstance(one, Exception) for one in given] == [False] * 3 + [True] * 2
    await house.store.close()


async def test_one_who_gives_up_does_not_take_the_others_with_him(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.file.free.clear()
    asked = [asyncio.ensure_future(house.registry.register(a_registration(instance_id=f"i{n}"))) for n in range(3)]
    await settled()
    asked[0].cancel()
    asked[1].cancel()
    await settled()
    house.file.free.set()
    await asked[2]

    assert "i2" in house.held()
    await house.store.close()


async def test_a_failing_disk_refuses_changes_and_recovers_by_itself(
    tmp_path: Path, expect_log: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "RETRY", 0.01)
    house = House(tmp_path)
    await house.registry.register(a_registration())
    await house.registry.register(a_registration(instance_id="i2", ttl=5.0))
    house.file.failure = sqlite3.OperationalError("database or disk is full")
    with expect_log("cannot write to .*: database or disk is full"):
        with pytest.raises(StoreUnavailable):
            await house.registry.register(a_registration(instance_id="i3"))
        with pytest.raises(StoreUnavailable):
            await house.registry.deregister(Deregister("i1"))
    assert house.store.trouble == "store_unavailable"
    house.clock.advance(6)
    assert house.held() == ["i1"], "time goes on"
    house.registry.renew("i1")

    house.file.failure = None
    with expect_log("can be written to again"):
        async with asyncio.timeout(20):
            while house.store.trouble:
                await asyncio.sleep(0)
    await house.registry.register(a_registration(instance_id="i3"))
    await house.store.close()
    assert House(tmp_path).held() == ["i1", "i3"], "and what has ended meanwhile has ended for good"


async def test_a_suspicion_neither_brings_back_what_has_gone_nor_undoes_what_was_answered(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.state.suspect_share = 0.5
    for n in range(12):
        await house.registry.register(a_registration(instance_id=f"i{n}", ttl=30.0))
    house.clock.advance(29)
    house.file.free.clear()
    asked = [
        asyncio.ensure_future(house.registry.deregister(Deregister("i0"))),
        asyncio.ensure_future(house.registry.override(SetOverride("i1", "draining", "deploy"))),
    ]
    await settled()
    house.clock.advance(1)  # the disk has both, or will have, and nobody else knows of them
    house.registry.sweep()
    house.registry.renew("i1")
    assert house.state.suspects() == 11
    house.file.free.set()
    await asyncio.gather(*asked)
    await house.store.close()

    former = recover(StateFile(tmp_path), 30.0, WALL).contents
    assert [kept.instance.instance_id for kept in former.instances] == [f"i{n}" for n in range(1, 12)]
    assert [kept.override.reason for kept in former.instances if kept.override] == ["deploy"]
    assert former.next_index > house.store.index
    again = new_state()
    again.suspect_share = 0.5
    again.restore(former.instances, former.gone, NOW, WALL)
    assert again.suspects() == 0, "leases begin anew"
    again.check()


async def test_an_override_that_ends_does_not_bring_back_an_instance_that_is_about_to_go(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.registry.register(a_registration())
    await house.registry.override(SetOverride("i1", "draining", seconds=10.0))
    house.clock.advance(9)
    house.file.free.clear()
    asked = asyncio.ensure_future(house.registry.deregister(Deregister("i1")))
    await settled()
    house.clock.advance(1)
    house.registry.sweep()
    house.file.free.set()
    await asked
    await house.store.close()
    assert recover(StateFile(tmp_path), 30.0, WALL).contents.instances == []


@pytest.mark.parametrize("is_report", [False, True])
async def test_an_override_that_ends_does_not_undo_what_is_being_written(tmp_path: Path, is_report: bool) -> None:
    house = House(tmp_path)
    await house.registry.register(a_registration())
    await house.registry.override(SetOverride("i1", "draining", "first", seconds=10.0))
    house.clock.advance(9)
    house.file.free.clear()
    new = SetOverride("i1", "maintenance", "second")
    asked = house.registry.update(Update("i1", Report(weight=7))) if is_report else house.registry.override(new)
    change = asyncio.ensure_future(asked)
    await settled()
    house.clock.advance(1)
    house.registry.sweep()
    assert house.registry.lease("i1").status == "up"
    house.file.free.set()
    await change
    held = house.registry.lease("i1")
    await house.store.close()

    (kept,) = recover(StateFile(tmp_path), 30.0, WALL).contents.instances
    assert kept.instance == held.instance
    again = new_state()
    again.restore([kept], [], house.clock.now(), house.clock.wall())
    again.commit(again.ended(house.clock.now(), house.clock.wall()), house.clock.now(), house.clock.wall())
    lease = again.lease("i1")
    assert (lease.status, lease.override and lease.override.reason) == (held.status, held.override and "second")


async def test_what_cannot_be_written_at_the_end_is_said(tmp_path: Path, expect_log: ExpectLog) -> None:
    house = House(tmp_path)
    house.file.failure = OSError("gone")
    with expect_log("cannot write the last of the state to"):
        await house.store.close()


async def test_after_the_end_nothing_is_tried_again(tmp_path: Path, expect_log: ExpectLog) -> None:
    house = House(tmp_path)
    house.file.free.clear()
    house.file.failure = OSError("gone")
    house.store.probe()
    closing = asyncio.ensure_future(house.store.close())
    await settled()
    house.file.free.set()
    with expect_log("cannot write"):
        await closing

    assert house.store._retry is not None
    assert house.store._retry.cancelled()


async def test_a_disk_that_hangs_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house = House(tmp_path)
    monkeypatch.setattr(sqlite_module, "SLOW", -1.0)
    house.file.free.clear()
    house.store.probe()
    assert house.store.trouble == "store_slow"
    house.file.free.set()
    await house.store.close()


def recovers_for(folder: Path, wall: float = WALL) -> float:
    """For how long a life that begins now cannot know who is there."""
    file = StateFile(folder)
    seconds = recover(file, 30.0, wall).recovers_for
    file.close()
    return seconds


async def test_a_damaged_file_is_set_aside_and_never_deleted(tmp_path: Path, expect_log: ExpectLog) -> None:
    (tmp_path / "registryd.db").write_bytes(b"this is no database" * 100)
    with expect_log("cannot be read: .*; it is kept as .*registryd.db.damaged-"):
        assert recovers_for(tmp_path) == 30.0
    (aside,) = tmp_path.glob("*.damaged-*")
    assert aside.read_bytes() == b"this is no database" * 100


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.unlink(), "it is gone, and registryd.db-wal is left"),
    ],
    ids=["cut to nothing", "taken away"],
)
async def test_a_state_that_was_there_is_no_first_start_without_it(
    tmp_path: Path, expect_log: ExpectLog, spoil: Callable[[Path], object], said: str
) -> None:
    path, beside = tmp_path / "registryd.db", tmp_path / "registryd.db-wal"
    assert recovers_for(tmp_path) == 0.0
    beside.write_bytes(b"what a kill has left")
    spoil(path)
    with expect_log(f"cannot be read: {said}; it is kept as "):
        assert recovers_for(tmp_path) == 30.0


async def test_what_was_lost_stays_lost_through_restarts_until_its_time_is_up(
    tmp_path: Path, expect_log: ExpectLog
) -> None:
    (tmp_path / "registryd.db").write_bytes(b"this is no database" * 100)
    with expect_log("cannot be read"):
        recovers_for(tmp_path)

    for later, left in [(0, 30.0), (10, 21.0), (31, 0.0), (-3600, 30.0)]:
        assert recovers_for(tmp_path, WALL + later) == left


def test_a_restored_lease_begins_anew_and_says_so_until_its_next_heartbeat() -> None:
    first = new_state()
    changes = first.decide(a_registration(), NOW, WALL)
    first.commit(changes, NOW, WALL)
    (change,) = changes
    second = new_state()
    second.restore([Kept(change.instance, change.last_heartbeat)], [], NOW, WALL + 5)
    lease = second.lease("i1")

    assert (lease.expires_at, lease.last_heartbeat, lease.is_restored) == (NOW + 30, WALL, True)
    assert (second.restored_count(), lease.handed_out_at) == (1, WALL + 5)
    second.renew(lease, NOW + 1, WALL)
    assert (second.restored_count(), lease.is_restored) == (0, False)
    second.check()


async def test_who_asks_after_the_end_is_refused(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.registry.register(a_registration())
    await house.store.close()
    with pytest.raises(StoreUnavailable):
        await house.registry.register(a_registration(instance_id="i2"))
    house.clock.advance(60)
    house.registry.sweep()
    assert up(house.registry, "users") == []


async def test_a_file_that_lags_behind_its_wal_needs_a_human_and_refuses_nobody(
    tmp_path: Path, expect_log: ExpectLog
) -> None:
    house = House(tmp_path)
    house.file.lagging = "disk I/O error"
    with expect_log("disk I/O error; nothing is lost, but that file grows; see to the disk"):
        await house.registry.register(a_registration())
    await house.registry.register(a_registration(instance_id="i2"))
    assert house.store.trouble == "store_lagging"
    house.file.lagging = None
    await house.registry.register(a_registration(instance_id="i3"))
    assert house.store.trouble is None
    await house.store.close()


async def test_its_writes_are_timed_and_counted_and_those_that_fail_too(tmp_path: Path, expect_log: ExpectLog) -> None:
    house = House(tmp_path)
    writes = house.store.writes
    await house.registry.register(a_registration())
    assert (sum(writes.durations.counts), writes.failed) == (1, 0)
    assert writes.size == sum(path.stat().st_size for path in tmp_path.iterdir())

    house.file.failure = OSError("planted")
    with expect_log("cannot write to"), pytest.raises(StoreUnavailable):
        await house.registry.register(a_registration(instance_id="i2"))
    assert (sum(writes.durations.counts), writes.failed) == (2, 1)
    house.file.failure = None
    await house.store.close()
