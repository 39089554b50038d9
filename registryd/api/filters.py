"""What the query of a call that lists instances says about which of them fit."""

from typing import Any, Protocol

from registryd.core.choice import Choice
from registryd.core.model import Status


class Fitting(Protocol):
    """The query of a reader who chooses among instances; all that is given must hold."""

    @property
    def statuses(self) -> str | None: ...
    @property
    def tag(self) -> tuple[str, ...]: ...
    @property
    def version(self) -> str | None: ...
    @property
    def zone(self) -> str | None: ...
    @property
    def meta(self) -> dict[str, str] | None: ...


def choice_of(query: Fitting, usual: frozenset[Status] | None, **more: Any) -> Choice:
    """What is wanted; of the `usual` statuses (None: any), where the query names none."""
    statuses: Any = usual if query.statuses is None else frozenset(query.statuses.split(","))
    return Choice(
        statuses=None if query.statuses == "any" else statuses,
        tags=query.tag,
        version=query.version,
        zone=query.zone,
        metadata=tuple((query.meta or {}).items()),
        **more,
    )
