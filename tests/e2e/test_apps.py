"""Real web apps, in processes of their own, find each other through a real registry."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from process import DEADLINE, Process, RunningDaemon, StartDaemon, fetch
from shells import until

pytestmark = pytest.mark.e2e

APPS = Path(__file__).parent.parent / "apps"
SERVING = r"serving (http://\S+) as (\S+)"

StartApp = Callable[..., Process]


@pytest.fixture
def start_app() -> Iterator[StartApp]:
    """`start_app("users_fastapi.py", registry_url, ttl)`"""
    with ExitStack() as stack:

        def start(name: str, registry_url: str, ttl: float) -> Process:
            argv = [sys.executable, str(APPS / name), str(ttl)]
            return stack.enter_context(Process(argv, {"REGISTRY_URL": registry_url}))

        yield start


def serving(app: Process) -> re.Match[str]:
    return app.wait_for_line(SERVING)


def finds_one(app: str) -> bool:
    return fetch(f"{app}/peer").status == 200


def test_apps_of_all_kinds_find_each_other(daemon: RunningDaemon, start_app: StartApp) -> None:
    users, timelines, media = (
        serving(app)[1]
        for app in [
            start_app(name, daemon.url, 30) for name in ("users_fastapi.py", "timelines_tornado.py", "media_flask.py")
        ]
    )
    for app, peer in ((users, "timelines"), (timelines, "users"), (media, "users")):
        # It watches, and may hear a moment later of who has just come.
        until(partial(finds_one, app))
        assert fetch(f"{app}/peer").json == {"found": peer}
    script = start_app("plain_script.py", daemon.url, 30)
    assert script.wait_for_line(r"found (\S+)")[1] == media
    assert daemon.fetch("/services").json["services"].keys() == {"users", "timelines", "media", "jobs"}


@pytest.mark.parametrize("name", ["users_fastapi.py", "timelines_tornado.py", "media_flask.py", "plain_script.py"])
def test_an_app_that_stops_in_order_is_gone_at_once(daemon: RunningDaemon, start_app: StartApp, name: str) -> None:
    app = start_app(name, daemon.url, 30)
    serving(app)
    assert daemon.fetch("/services").json["count"] == 1
    app.signal(signal.SIGTERM)
    assert app.wait() in (0, -signal.SIGTERM), "uvicorn shuts down in order and then ends by the signal"

    assert daemon.fetch("/services").json["count"] == 0
    daemon.wait_for_line("deregistered .* reason='its owner asked for it'")


@pytest.mark.parametrize("name", ["users_fastapi.py", "timelines_tornado.py"])
def test_an_app_that_is_killed_is_gone_exactly_when_its_lease_ends(
    daemon: RunningDaemon, start_app: StartApp, name: str
) -> None:
    ttl = 1.5
    app = start_app(name, daemon.url, ttl)
    instance_id = serving(app)[2]
    app.signal(signal.SIGKILL)
    app.wait()

    # The last heartbeat is ours, so that its moment is known: between these two.
    after = time.monotonic()
    assert daemon.fetch(f"/heartbeat/{instance_id}", "POST").status == 200
    before = time.monotonic()
    service = "users" if name.startswith("users") else "timelines"
    looks: list[tuple[float, bool, float]] = []
    while not looks or looks[-1][1]:
        asked = time.monotonic()
        is_listed = daemon.listed(service) == [instance_id]
        looks.append((asked, is_listed, time.monotonic()))
        assert asked < before + DEADLINE

    # A stall of the daemon (on a machine under load) extends the lease by as much, and says by how much.
    end = before + ttl + daemon.fetch("/status").json["leases"]["stalled_seconds"]
    assert all(is_listed for _, is_listed, answered in looks if answered < after + ttl), "not a moment too early"
    assert not any(is_listed for asked, is_listed, _ in looks if asked >= end), "not a moment too late"
    assert len(looks) > 2


def test_an_app_outlives_its_registry_and_comes_back_to_it(start_daemon: StartDaemon, start_app: StartApp) -> None:
    first = start_daemon()
    port = first.url.rpartition(":")[2]
    app = start_app("users_fastapi.py", first.url, 1)
    at, instance_id = serving(app).groups()
    first.signal(signal.SIGKILL)
    first.wait()
    app.wait_for_line("no answer from the registry")
    assert fetch(f"{at}/who").status == 200

    second = start_daemon("--port", port)
    second.wait_for_line(f"registered service=users instance={instance_id} ")
    assert second.listed() == [instance_id]


def test_an_app_starts_before_its_registry(start_daemon: StartDaemon, start_app: StartApp) -> None:
    gone = start_daemon()
    gone.signal(signal.SIGTERM)
    gone.wait()
    port = gone.url.rpartition(":")[2]
    app = start_app("users_fastapi.py", gone.url, 1)
    at, instance_id = serving(app).groups()
    assert fetch(f"{at}/who").json == {"i_am": "users"}

    registry = start_daemon("--port", port)
    registry.wait_for_line(f"registered service=users instance={instance_id} ")
