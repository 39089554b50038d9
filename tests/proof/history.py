"""What clients of a registry have sent and got, and when: what the checker judges, and what a file of it looks like.

All times are seconds on the monotonic clock, which all processes of a machine share, the registry's leases included.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

Kind = Literal["register", "heartbeat", "deregister", "lookup", "status"]
#: What came of it. `store_unavailable`: refused, because the disk did not take it. `unknown`: no answer came, so that
#: it may have been done, or may still be.
Outcome = Literal["ok", "unknown_instance", "stale_generation", "store_unavailable", "unknown"]

#: What may change something in the list of a service.
CHANGES = ("register", "deregister")


class Registration(msgspec.Struct, frozen=True, array_like=True):
    """An instance in an answer: which operation has registered it (its base_url says so), and its generation."""

    number: int
    generation: int


class Operation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request and what came of it. Numbers are given once in a history, from 1 on."""

    number: int
    client: int
    #: Which life of the registry it was sent to: their connections do not outlive them.
    life: int
    kind: Kind
    service: str = ""
    instance_id: str = ""
    #: What it asked for.
    ttl: float = 0.0
    generation: int | None = None
    #: When it was about to be sent; when it was answered, or given up.
    invoked: float
    ended: float
    outcome: Outcome = "unknown"
    #: What the answer says: an instance (of `register` and `deregister`), a list, its index, seconds of stalls so far.
    found: Registration | None = None
    listed: dict[str, Registration] = {}
    index: int = 0
    stalled: float = 0.0

    def __str__(self) -> str:
        asked = " ".join([self.kind, self.instance_id or self.service, *self._details()])
        answer = self.outcome + "".join(f" {detail}" for detail in self._answered())
        return f"#{self.number} {self.invoked:.4f}..{self.ended:.4f} client {self.client}: {asked} -> {answer}"

    def _details(self) -> list[str]:
        ttl = [f"ttl={self.ttl:g}"] if self.kind == "register" else []
        return ttl + ([] if self.generation is None else [f"generation={self.generation}"])

    def _answered(self) -> list[str]:
        found = [] if self.found is None else [f"registered by #{self.found.number} generation={self.found.generation}"]
        names = [f"{name}(#{one.number} generation={one.generation})" for name, one in sorted(self.listed.items())]
        if self.kind == "lookup" and self.outcome == "ok":
            found.append(f"[{', '.join(names)}] index={self.index}")
        return found


class Life(msgspec.Struct):
    """A life of the registry: when its process was about to be started and was ready, when it had ended; and from when
    to when it was stopped (SIGSTOP), each time that was long enough to count."""

    number: int
    spawned: float
    ready: float
    dead: float | None = None
    stopped: list[tuple[float, float]] = msgspec.field(default_factory=list)


class Book:
    """A file of JSON lines in which a history is kept, as far as it is asked for: the operations, in the order in which
    they ended, and at the end the lives, each as {"life": ...}."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("wb")
        self._encode = msgspec.json.Encoder().encode

    def add(self, operations: Iterable[Operation]) -> None:
        if self._file is not None:
            self._file.writelines(self._encode(operation) + b"\n" for operation in operations)

    def close(self, lives: Iterable[Life]) -> None:
        if self._file is not None:
            self._file.writelines(self._encode({"life": life}) + b"\n" for life in lives)
            self._file.close()
