"""What a registry says, as rows for people. It is taken as it comes: what is not there is left out."""

from collections.abc import Iterable, Mapping
from typing import Any

from registryd.ctl.tables import Cell

COLOUR_OF_STATUS = {"up": "good", "starting": "fading", "draining": "fading", "maintenance": "fading", "down": "bad"}
COLOUR_OF_EVENT = {"registered": "good", "updated": "fading", "deregistered": "bad", "expired": "bad"}

SERVICES = ("SERVICE", "UP", "INSTANCES")
INSTANCES = ("INSTANCE", "URL", "STATUS", "VERSION", "ZONE", "WEIGHT", "HEARTBEAT", "TAGS", "METADATA")
#: Columns that are cut where there is too little room: what one copies is whole.
ELASTIC = ("STATUS", "TAGS", "METADATA", "WHY", "USER AGENT")
STORIES = ("INSTANCE", "SERVICE", "HANDED OUT", "LAST", "WHY")
EVENTS = ("WHEN", "EVENT", "INSTANCE", "WHY", "BY", "TOKEN", "USER AGENT")


def services(counts: Mapping[str, Mapping[str, Any]]) -> list[list[Cell | str]]:
    """A row a service."""
    return [
        [name, Cell(_text(count, "up"), "good" if count.get("up") else "bad"), _text(count, "count")]
        for name, count in counts.items()
    ]


def instances(found: Iterable[Mapping[str, Any]]) -> list[list[Cell | str]]:
    """A row an instance. Weights are left out where none says anything."""
    found = list(found)
    is_weighed = any(instance.get("weight") != 1 for instance in found)
    return [
        [
            _text(instance, "instance_id"), _text(instance, "base_url"), status(instance), _text(instance, "version"),
            _text(instance, "zone"), _text(instance, "weight") if is_weighed else "",
            _text(instance, "last_heartbeat"), " ".join(map(str, instance.get("tags", ()))),
            " ".join(f"{key}={value}" for key, value in instance.get("metadata", {}).items()),
        ]
        for instance in found
    ]  # fmt: skip


def status(instance: Mapping[str, Any]) -> Cell:
    """Its status, and what there is to it."""
    said = _text(instance, "status")
    override = instance.get("override") or {}
    reason, until = _text(override, "reason"), _text(override, "until")
    notes = [
        note for note in (reason, until and f"until {until}", "suspect" if instance.get("suspect") else "") if note
    ]
    colour = "odd" if instance.get("suspect") else COLOUR_OF_STATUS.get(said, "odd")
    return Cell(f"{said} ({', '.join(notes)})" if notes else said, colour)


def stories(found: Iterable[Mapping[str, Any]]) -> list[list[Cell | str]]:
    """A row an instance: whether it is handed out, and why."""
    return [
        [
            _text(story, "instance_id"), _text(story, "service_name"),
            Cell("yes", "good") if story.get("handed_out") else Cell("no", "bad"),
            _text(story, "last_handed_out_at"), _text(story, "why"),
        ]
        for story in found
    ]  # fmt: skip


def events(found: Iterable[Mapping[str, Any]]) -> list[list[Cell | str]]:
    """A row an event of these stories, the oldest first."""
    told = [(event, _text(story, "instance_id")) for story in found for event in story.get("events", ())]
    told.sort(key=lambda pair: int(pair[0].get("index", 0)))
    return [
        [
            _text(event, "at"), Cell(_text(event, "event"), COLOUR_OF_EVENT.get(_text(event, "event"), "")),
            instance_id, *(_text(event, name) for name in ("why", "address", "token", "user_agent")),
        ]
        for event, instance_id in told
    ]  # fmt: skip


def facts(document: Mapping[str, Any], prefix: str = "") -> list[list[Cell | str]]:
    """A row for all that a document says, with dots where it is nested."""
    rows: list[list[Cell | str]] = []
    for name, value in document.items():
        if isinstance(value, dict):
            rows += facts(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            rows.append([f"{prefix}{name}", " ".join(map(str, value))])
        else:
            is_degraded = prefix + name == "status" and value != "ok"
            rows.append([f"{prefix}{name}", Cell(str(value), "bad" if is_degraded else "")])
    return rows


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return "" if value is None else str(value)
