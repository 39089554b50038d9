"""One function for each command that asks: it calls the registry, writes what it says, and gives back the status."""

import argparse
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from registryd.client.errors import Refused
from registryd.client.http import Client
from registryd.client.registries import without_secret
from registryd.ctl import show
from registryd.ctl.calls import INSTANCE, call
from registryd.ctl.output import Output
from registryd.ctl.statuses import Status
from registryd.ctl.tables import printable
from registryd.ctl.waiting import TooLate, wait_for_instances, wait_until_forgotten
from registryd.ctl.watching import Watch, instances_of

Command = Callable[[Client, argparse.Namespace, Output], Status]


def services(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl services`"""
    answer = call(client, "GET", "/services", services=dict)
    if asked.json:
        output.document(answer)
    else:
        output.table(show.SERVICES, show.services(answer["services"]))
    return Status.DONE


def get(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl get`"""
    query = _query(asked)
    query += [("status", asked.status)] if asked.status is not None else []
    query += [("limit", str(asked.limit))] if asked.limit is not None else []
    query += [("pick", "1")] if asked.pick else []
    path = _path("services", asked.name) + (f"?{urlencode(query)}" if query else "")
    answer = call(client, "GET", path, instances=list)
    return _show_list(answer, asked, output)


def wait(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl wait`"""
    try:
        answer = wait_for_instances(
            client, asked.name, _query(asked), asked.min, asked.timeout, clock=time.monotonic, sleep=time.sleep
        )
    except TooLate:
        output.complain(
            f"there are not {asked.min} instances of {asked.name} that fit, after {asked.timeout:g} s; "
            f"registryctl explain {asked.name} says why"
        )
        return Status.NO
    if asked.json:
        output.document(answer)
    return Status.DONE


def watch(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl watch`: ends only by an error or a signal."""

    def lost(why: str) -> None:
        output.complain(f"lost the registry: {why}; trying again")

    def found(is_whole: bool) -> None:
        output.complain(f"watching again; {'nothing was missed' if is_whole else 'here is what is there now'}")

    for event in Watch(client, asked.names, lost, found).events():
        if asked.json:
            output.document({"event": event.kind, "index": event.index, "data": event.data})
            continue
        kind = "listed" if event.kind == "snapshot" else event.kind
        for instance in instances_of(event):
            output.line(_event_line(kind, instance, output))
    return Status.DONE


def _event_line(kind: str, instance: dict[str, Any], output: Output) -> str:
    status = show.status(instance)
    parts = [
        time.strftime("%H:%M:%S"),
        output.paint(f"{printable(kind):<12}", show.COLOUR_OF_EVENT.get(kind, "")),
        *(printable(str(instance.get(name, ""))) for name in ("service_name", "instance_id", "base_url")),
        output.paint(printable(status.text), status.colour),
    ]
    return " ".join(parts)


def register(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl register`, without --keep"""
    body = {"service_name": asked.service, "base_url": asked.url, **about(asked)}
    answer = call(client, "POST", "/register", body, **INSTANCE, ttl=float | int)
    if asked.json:
        output.document(answer)
    else:
        ttl = f"{answer['ttl']:g}"
        said = f"registered {answer['instance_id']} of {answer['service_name']}; without heartbeats it ends in {ttl} s"
        output.line(printable(said))
    return Status.DONE


def about(asked: argparse.Namespace) -> dict[str, Any]:
    """What is said of an instance, by the names of the fields; what is not said is left out."""
    said = {
        "instance_id": asked.id,
        "ttl": asked.ttl,
        "status": asked.status,
        "tags": asked.tag,
        "version": asked.version,
        "zone": asked.zone,
        "weight": asked.weight,
        "metadata": None if asked.meta is None else dict(asked.meta),
    }
    return {name: value for name, value in said.items() if value is not None}


def deregister(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl deregister`"""
    answer = call(client, "DELETE", _path("deregister", asked.id), **INSTANCE)
    return _show_one(answer, "deregistered", asked, output)


def drain(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl drain`: with --wait, until nobody has been given it for so long."""
    answer = _override(client, asked)

    def last_handed_out_at() -> list[Any]:
        stories = call(client, "GET", _path("explain", asked.id), instances=list)["instances"]
        return [story.get("last_handed_out_at") for story in stories if story.get("instance_id") == asked.id]

    if asked.wait is not None:
        try:
            wait_until_forgotten(last_handed_out_at, asked.wait, asked.timeout, clock=time.monotonic, sleep=time.sleep)
        except TooLate:
            output.complain(
                f"it is not certain after {asked.timeout:g} s that nobody is handed {asked.id} any more, by its own "
                "page or as any status; it is draining all the same"
            )
            return Status.NO
        answer["last_handed_out_at"] = next(iter(last_handed_out_at()), None)
    return _show_one(answer, "draining", asked, output)


def maintenance(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl maintenance`"""
    return _show_one(_override(client, asked), "in maintenance", asked, output)


def resume(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl resume`"""
    return _show_one(call(client, "POST", _path("resume", asked.id), **INSTANCE), "resumed", asked, output)


def explain(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl explain`"""
    answer = call(client, "GET", _path("explain", asked.subject), instances=list)
    if asked.json:
        output.document(answer)
    elif answer["instances"]:
        output.table(show.STORIES, show.stories(answer["instances"]), show.ELASTIC)
        output.line("")
        output.table(show.EVENTS, show.events(answer["instances"]), show.ELASTIC)
    if not answer["instances"]:
        output.complain(f"{asked.subject}: {answer.get('why', 'nothing is known of it')}")
        return Status.NO
    return Status.DONE


def status(client: Client, asked: argparse.Namespace, output: Output) -> Status:
    """`registryctl status`"""
    answer = call(client, "GET", "/status", status=str)
    if asked.json:
        output.document(answer)
    else:
        output.table(("REGISTRY", without_secret(client.registries.url)), show.facts(answer))
    return Status.DONE if answer["status"] == "ok" else Status.NO


def _override(client: Client, asked: argparse.Namespace) -> dict[str, Any]:
    said = {"reason": asked.reason, "for": asked.seconds}
    body = {name: value for name, value in said.items() if value is not None}
    return call(client, "POST", _path(asked.command, asked.id), body, **INSTANCE)


def _show_one(answer: dict[str, Any], what: str, asked: argparse.Namespace, output: Output) -> Status:
    """What has been done with an instance."""
    if asked.json:
        output.document(answer)
        return Status.DONE
    said = f"{answer['instance_id']} of {answer['service_name']}: {what}"
    if "last_handed_out_at" in answer and what != "resumed":
        said += f"; last handed out {answer['last_handed_out_at'] or 'never'}"
    output.line(printable(said))
    return Status.DONE


def _show_list(answer: dict[str, Any], asked: argparse.Namespace, output: Output) -> Status:
    if asked.json:
        output.document(answer)
    elif asked.urls:
        for instance in answer["instances"]:
            output.line(printable(instance["base_url"]))
    elif answer["instances"]:
        output.table(show.INSTANCES, show.instances(answer["instances"]), show.ELASTIC)
    if not answer["instances"]:
        output.complain(f"no instance of {asked.name} fits; registryctl explain {asked.name} says why")
        return Status.NO
    return Status.DONE


def _query(asked: argparse.Namespace) -> list[tuple[str, str]]:
    query = [("tag", tag) for tag in asked.tag]
    query += [(name, value) for name in ("version", "zone", "near") if (value := getattr(asked, name)) is not None]
    return query + [(f"meta.{key}", value) for key, value in asked.meta]


def _path(call: str, subject: str) -> str:
    return f"/{call}/{quote(subject, safe='')}"


def words(error: Refused, asked: argparse.Namespace) -> str:
    """A refusal as a line that says what to do here."""
    if error.code == "unknown_instance" and "id" in asked:
        return f"no instance {asked.id} is registered, or its lease has ended; registryctl explain {asked.id} says more"
    if error.status in (401, 403):
        return f"{error}; REGISTRY_TOKEN or --token-file says which token is shown"
    return str(error)


COMMANDS: dict[str, Command] = {
    "services": services,
    "get": get,
    "wait": wait,
    "watch": watch,
    "register": register,
    "deregister": deregister,
    "drain": drain,
    "maintenance": maintenance,
    "resume": resume,
    "explain": explain,
    "status": status,
}
