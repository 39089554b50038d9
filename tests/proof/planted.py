"""A registryd with a fault that is planted in it: `python tests/proof/planted.py FAULT ...`, with registryd's flags

Each is a mistake that one could make, and that a test with one client at a time would hardly find. The product has no
hook for them: they are laid over it here, before it starts.
"""

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from registryd.cli import main
from registryd.core.leases import Lease
from registryd.core.model import NOBODY, Change, Deregister, Origin
from registryd.core.services import Services
from registryd.registry import Registry, _Asked
from registryd.store.sqlite import SqliteStore, _Write

#: Seconds by which a write is put off, so that many share it; and those that a slow disk takes for one.
PUT_OFF = 0.05
DISK = 0.005


class Overlay(NamedTuple):
    """What is laid over a method of a class."""

    owner: type
    name: str
    instead: Callable[..., object]


def stale_list() -> list[Overlay]:
    """A list is kept rendered when an instance is taken off it: a lookup has it until the next change."""
    unlist = Services.unlist

    def forgetful(self: Services, lease: Lease) -> None:
        service = self.get(lease.instance.service_name)
        assert service is not None
        rendered = service.rendered
        unlist(self, lease)
        service.rendered = rendered

    return [Overlay(Services, "unlist", forgetful)]


def late_end() -> list[Overlay]:
    """A lease that is shorter than those before does not bring forward the moment at which ends are looked for."""
    make_true = Registry._make_true

    def late(self: Registry, together: list[_Asked], numbered: Sequence[Change]) -> None:
        before = self._next_end
        make_true(self, together, numbered)
        self._next_end = max(before, self._next_end)

    return [Overlay(Registry, "_make_true", late)]


def early_answer() -> list[Overlay]:
    """A change is answered before it is on the disk: a kill -9 takes it back."""

    async def append(self: SqliteStore, changes: Sequence[Change]) -> tuple[Change, ...]:
        def write() -> None:
            self._waiting.append(_Write(changes, None))
            self._go_on()

        self._loop.call_later(PUT_OFF, write)
        return tuple(map(self._number, changes))

    return [Overlay(SqliteStore, "append", append)]


def early_check() -> list[Overlay]:
    """The generation that a deregistration names is looked at when it is asked for, not when its turn comes: a takeover
    that is being written goes by, and its instance is taken off the list."""
    deregister, append = Registry.deregister, SqliteStore.append

    async def checked(self: Registry, command: Deregister, origin: Origin = NOBODY) -> Change:
        self._state.lease_to_change(command.instance_id, command.generation, origin.caller)
        return await deregister(self, Deregister(command.instance_id), origin)

    async def slow(self: SqliteStore, changes: Sequence[Change]) -> tuple[Change, ...]:
        await asyncio.sleep(DISK)
        return await append(self, changes)

    return [Overlay(Registry, "deregister", checked), Overlay(SqliteStore, "append", slow)]


FAULTS: dict[str, Callable[[], list[Overlay]]] = {
    "stale-list": stale_list,
    "late-end": late_end,
    "early-answer": early_answer,
    "early-check": early_check,
}

if __name__ == "__main__":
    for overlay in FAULTS[sys.argv[1]]():
        setattr(*overlay)
    sys.exit(main(sys.argv[2:]))
