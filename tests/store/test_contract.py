"""What every store promises."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from support import NOW, WALL, RecordingStore, a_registration, new_state

from registryd.core.model import Change
from registryd.store.base import MemoryStore, Store
from registryd.store.file import StateFile
from registryd.store.sqlite import SqliteStore, recover


def open_sqlite(folder: Path, index: int) -> Store:
    file = StateFile(folder)
    recover(file, 30.0, WALL)
    return SqliteStore(file, index)


@pytest.fixture(params=["memory", "recording", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], Store]:
    stores: dict[str, Callable[[int], Store]] = {
        "memory": MemoryStore,
        "recording": RecordingStore,
        "sqlite": functools.partial(open_sqlite, tmp_path),
    }
    return stores[request.param]


def changes(count: int) -> list[Change]:
    return [new_state().decide(a_registration(instance_id=f"i{n}"), NOW, WALL)[0] for n in range(count)]


def test_numbers_follow_each_other_whoever_asks(make: Callable[[int], Store]) -> None:
    async def story() -> None:
        store = make(41)
        first = await store.append(changes(2))
        second = store.record(changes(1))
        third = await store.append(changes(1))

        assert [change.index for change in [*first, *second, *third]] == [42, 43, 44, 45]
        assert store.index == 45
        await store.close()

    asyncio.run(story())


def test_numbering_leaves_the_rest_of_a_change_alone(make: Callable[[int], Store]) -> None:
    async def story() -> None:
        (given,) = changes(1)
        store = make(41)
        (numbered,) = await store.append([given])

        assert numbered.instance is given.instance
        assert (numbered.kind, numbered.reason, given.index) == (given.kind, given.reason, 0)
        assert store.trouble is None
        await store.close()

    asyncio.run(story())
