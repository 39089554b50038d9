"""What `registryctl top` shows: made of events, drawn as lines. Pure: time, and the size of the terminal, come from
outside."""

from collections import Counter, deque
from typing import Any

from registryd.client.events import Event
from registryd.ctl import show
from registryd.ctl.tables import Cell, cut, painted, printable, table
from registryd.ctl.watching import instances_of

HEADER = ("SERVICE", "UP", "ALL", "STARTING", "DOWN", "DRAINING", "MAINTENANCE", "SUSPECT", "LAST CHANGE")
#: The latest changes that are remembered, and the part of the terminal that they have at most.
MOST_CHANGES = 100
PART_OF_CHANGES = 3
#: What the keys do, by the names of the keys.
SCROLLS = {"down": 1, "up": -1, "page down": 10, "page up": -10}


class Top:
    """All that is known, and how far it is scrolled."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._instances: dict[str, dict[str, Any]] = {}
        self._changes: deque[tuple[str, str, dict[str, Any]]] = deque(maxlen=MOST_CHANGES)
        self._last_change: dict[str, str] = {}
        self._index: int | None = None
        self._trouble = ""
        self._offset = 0

    def take(self, event: Event, at: str) -> None:
        """An event, and the time of day."""
        self._index = event.index
        if event.kind == "snapshot":
            self._instances = {instance["instance_id"]: instance for instance in instances_of(event)}
            return
        for instance in instances_of(event):
            if event.kind in ("deregistered", "expired"):
                self._instances.pop(instance["instance_id"], None)
            else:
                self._instances[instance["instance_id"]] = instance
            self._changes.append((at, event.kind, instance))
            self._last_change[instance["service_name"]] = at

    def lost(self, why: str) -> None:
        """The registry has gone; what is shown is how it was."""
        self._trouble = why

    def found(self, url: str) -> None:
        """It is there again."""
        self._trouble, self._url = "", url

    def press(self, key: str) -> None:
        """A key of SCROLLS."""
        self._offset = max(0, self._offset + SCROLLS.get(key, 0))

    def lines(self, columns: int, rows: int, *, has_colours: bool) -> list[str]:
        """The screen: `rows` lines at most. Where they are wider than `columns` the terminal is to clip them."""
        head = self._head(columns, has_colours=has_colours)
        changes = self._latest(columns, min(len(self._changes), rows // PART_OF_CHANGES), has_colours=has_colours)
        room = max(0, rows - len(head) - len(changes) - bool(changes))
        services = self._services(columns, room, has_colours=has_colours)
        gap = [""] * (room - len(services) + 1) if changes else []
        return [*head, *services, *gap, *changes][:rows]

    def _head(self, columns: int, *, has_colours: bool) -> list[str]:
        services = len({instance["service_name"] for instance in self._instances.values()})
        said = f"{len(self._instances)} instances of {services} services, index {self._index}"
        if self._index is None:
            said = "asking"
        lines = [cut(f"{printable(self._url)}: {said}", columns)]
        if self._trouble:
            text = cut(f"LOST THE REGISTRY, this is how it was: {printable(self._trouble)}", columns)
            lines.append(painted(text, "bad") if has_colours else text)
        return [*lines, ""]

    def _services(self, columns: int, room: int, *, has_colours: bool) -> list[str]:
        counts: dict[str, Counter[str]] = {}
        for instance in self._instances.values():
            count = counts.setdefault(instance["service_name"], Counter())
            count[instance["status"]] += 1
            count["suspect"] += bool(instance.get("suspect"))
            count["all"] += 1
        for name in self._last_change:
            counts.setdefault(name, Counter())  # it had some a moment ago, which is worth to be seen
        names = sorted(counts)
        self._offset = max(0, min(self._offset, len(names) - (room - 1)))
        rows = [self._row(name, counts[name]) for name in names]
        lines = table(HEADER, rows, columns=columns, has_colours=has_colours, elastic=("SERVICE",))
        return [*lines[:1], *lines[1 + self._offset :]][:room]

    def _row(self, name: str, count: Counter[str]) -> list[Cell | str]:
        kinds = [("starting", "fading"), ("down", "bad"), ("draining", "fading"), ("maintenance", "fading")]
        return [
            name,
            Cell(str(count["up"]), "good" if count["up"] else "bad"),
            str(count["all"]),
            *(Cell(str(count[kind]) if count[kind] else "", colour) for kind, colour in [*kinds, ("suspect", "odd")]),
            self._last_change.get(name, ""),
        ]

    def _latest(self, columns: int, room: int, *, has_colours: bool) -> list[str]:
        lines = []
        for at, kind, instance in list(self._changes)[len(self._changes) - room :]:
            what = [instance.get(name, "") for name in ("service_name", "instance_id", "base_url")]
            rest = printable(" ".join([*map(str, what), show.status(instance).text]))
            event, colour = f"{printable(kind):<12}", show.COLOUR_OF_EVENT.get(kind, "")
            shown = painted(event, colour) if has_colours else event
            lines.append(f"{at} {shown} {cut(rest, max(1, columns - len(at) - len(event) - 2))}")
        return lines
