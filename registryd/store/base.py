"""What the registry asks of a store, and the store that keeps nothing."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from registryd.core.model import Change
from registryd.histogram import Histogram

#: Seconds: bounds of how long a write may take.
DURATIONS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Writes:
    """The writes of a store to its disk."""

    def __init__(self) -> None:
        #: How long each took, those that have failed included.
        self.durations = Histogram(DURATIONS)
        self.failed = 0
        #: Bytes on the disk after the last.
        self.size = 0


class Store(Protocol):
    """Keeps changes and hands out their numbers, which only ever grow and are never given twice."""

    #: What kind of store it is, as /status shows it.
    kind: str
    #: The last number handed out.
    index: int

    @property
    def is_immediate(self) -> bool:
        """Whether `append` neither waits nor fails right now."""

    @property
    def writes(self) -> Writes | None:
        """Its writes; None where it keeps nothing."""

    @property
    def trouble(self) -> str | None:
        """What keeps it from its work, as a word for /status; None where nothing does."""

    async def append(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        """Keeps changes for good, all of them or (where it raises StoreUnavailable) none, then numbers them. The
        numbers are drawn at the very end, when nothing is awaited any more: whatever `record` numbers meanwhile comes
        first, in the order in which the changes come true."""

    def record(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Numbers changes that are true in any case, because time has passed, and keeps them when it can.
        Never fails and never waits."""

    async def close(self) -> None:
        """Finishes what is under way."""


class MemoryStore:
    """Keeps nothing: a restart begins anew, and the services register again."""

    kind = "memory"
    writes = None
    is_immediate = True
    trouble = None

    def __init__(self, index: int) -> None:
        self.index = index

    async def append(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        """Numbers the changes."""
        return self.record(changes)

    def record(self, changes: Iterable[Change]) -> tuple[Change, ...]:
        """Numbers the changes."""
        return tuple([self._number(change) for change in changes])

    async def close(self) -> None:
        """Has nothing to finish."""

    def _number(self, change: Change) -> Change:
        self.index += 1
        return msgspec.structs.replace(change, index=self.index)
