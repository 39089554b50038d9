"""Server-sent events from bytes, as they come (WHATWG HTML, section 9.2). Knows no socket and no clock."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

#: Bytes of one event beyond which this is no registry: a snapshot of a million instances is smaller.
MOST_BYTES = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """An event: its kind (`snapshot`, `registered`, `updated`, `deregistered`, `expired`, or whatever a later registry
    may send), the index, and what it tells. A comment is an event of the kind ``""``: it tells that the registry is
    there."""

    kind: str
    index: int | None = None
    data: Any = None


COMMENT = Event("")


class Parser:
    """Makes events of bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0

    @property
    def is_amid(self) -> bool:
        """Whether there is a part of an event, whose rest is to come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are whole now. Raises ValueError for what is none."""
        self._buffer += data
        while (end := self._buffer.find(b"\n\n", max(0, self._searched - 1))) >= 0:
            block = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            self._searched = 0
            yield _event(block)
        self._searched = len(self._buffer)
        if self._searched > MOST_BYTES:
            raise ValueError("an event has no end")


def _event(block: bytes) -> Event:
    fields: dict[str, str] = {}
    for line in block.decode("utf-8").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
    if "data" not in fields:
        return COMMENT
    index = fields.get("id", "")
    is_index = index.isascii() and index.isdigit() and len(index) <= 16
    try:
        return Event(fields.get("event", "message"), int(index) if is_index else None, json.loads(fields["data"]))
    except RecursionError:
        raise ValueError("an event is nested too deeply") from None
