"""The seed's six calls and their neighbours, over real HTTP."""

import asyncio
import dataclasses
import json
import uuid
from typing import Any

import pytest
from conftest import Api
from support import FIRST_INDEX, ManualClock, RecordingStore

from registryd.api.context import Daemon

INSTANCE_FIELDS = [
    "instance_id", "service_name", "base_url", "registered_at", "last_heartbeat", "status", "ttl", "metadata", "tags",
    "version", "zone", "weight", "generation",
]  # fmt: skip


async def test_register_answers_the_instance_with_every_field_of_the_contract(api: Api) -> None:
    answer = await api.post("/register", {"service_name": "users", "base_url": "http://10.0.0.5:8000"})

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert list(answer.json) == INSTANCE_FIELDS
    instance_id = answer.json["instance_id"]
    assert str(uuid.UUID(instance_id)) == instance_id
    assert answer.json == {
        "instance_id": instance_id,
        "service_name": "users",
        "base_url": "http://10.0.0.5:8000",
        "registered_at": "2024-01-15T10:30:00Z",
        "last_heartbeat": "2024-01-15T10:30:00Z",
        "status": "up",
        "ttl": 30.0,
        "metadata": {},
        "tags": [],
        "version": "",
        "zone": "",
        "weight": 1,
        "generation": 1,
    }


async def test_register_takes_everything_that_an_instance_can_say(api: Api) -> None:
    said: dict[str, Any] = {
        "instance_id": "users-1",
        "ttl": 2.5,
        "status": "starting",
        "metadata": {"team": "core", "ключ": "значение"},
        "tags": ["blue", "canary"],
        "version": "1.2.3",
        "zone": "eu-1",
        "weight": 0,
    }
    registered = await api.register(**said)

    assert {name: registered[name] for name in said} == said


async def test_null_is_not_given(api: Api) -> None:
    registered = await api.register(instance_id=None, ttl=None, status=None, metadata=None, tags=None, weight=None)

    assert (registered["ttl"], registered["status"], registered["weight"]) == (30.0, "up", 1)


async def test_each_registration_makes_a_new_instance_even_for_a_known_url(api: Api) -> None:
    first, second = await api.register(), await api.register()

    assert first["instance_id"] != second["instance_id"]
    assert (await api.get("/services/users")).json["count"] == 2


async def test_a_known_instance_id_is_a_takeover(api: Api) -> None:
    await api.register(instance_id="users-1", tags=["old"])
    again = await api.register(instance_id="users-1", base_url="http://10.0.0.6:8000")

    assert (again["generation"], again["tags"]) == (2, [])
    listed = (await api.get("/services/users")).json
    assert listed["instances"] == [again]


async def test_heartbeat_renews_and_answers_the_lease(api: Api, clock: ManualClock) -> None:
    registered = await api.register(instance_id="users-1")
    clock.advance(29)
    answer = await api.post("/heartbeat/users-1")
    clock.advance(29)

    assert (answer.status, answer.json) == (
        200,
        {
            "instance_id": "users-1",
            "service_name": "users",
            "status": "up",
            "last_heartbeat": "2024-01-15T10:30:29Z",
            "ttl": 30.0,
        },
    )
    listed = (await api.get("/services/users")).json
    assert listed["instances"] == [registered | {"last_heartbeat": "2024-01-15T10:30:29Z"}]


async def test_heartbeat_may_report_status_weight_and_metadata(api: Api) -> None:
    await api.register(instance_id="users-1")
    answer = await api.post("/heartbeat/users-1", {"status": "down", "weight": 3, "metadata": {"why": "disk"}})

    assert answer.json["status"] == "down"
    shown = (await api.get("/instances/users-1")).json
    assert (shown["status"], shown["weight"], shown["metadata"]) == ("down", 3, {"why": "disk"})


@pytest.mark.parametrize("body", [b"", b"{}", b'{"status": null}'])
async def test_an_empty_heartbeat_reports_nothing(api: Api, body: bytes) -> None:
    await api.register(instance_id="users-1", status="starting")

    assert (await api.post("/heartbeat/users-1", body)).json["status"] == "starting"


async def test_deregister_answers_the_instance_as_it_was(api: Api) -> None:
    registered = await api.register(instance_id="users-1")
    answer = await api.delete("/deregister/users-1")

    assert (answer.status, answer.json) == (200, registered)
    assert (await api.get("/services")).json == {"services": {}, "count": 0}
    assert (await api.delete("/deregister/users-1")).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/heartbeat/{}"),
        ("POST", "/heartbeat/{}?generation=1"),
        ("DELETE", "/deregister/{}"),
        ("GET", "/instances/{}"),
    ],
)
@pytest.mark.parametrize("instance_id", ["nobody", "%00", "a%2Fb", "..%2f..", "%E2%82%AC", "x" * 3000])
async def test_an_unknown_instance_is_a_404_that_says_to_register(
    api: Api, method: str, path: str, instance_id: str
) -> None:
    answer = await api(method, path.format(instance_id), b"" if method == "POST" else None)

    assert answer.status == 404
    assert answer.json["code"] == "unknown_instance"
    assert "register it again" in answer.json["detail"]


@pytest.mark.parametrize(("method", "path"), [("POST", "/heartbeat/users-1"), ("DELETE", "/deregister/users-1")])
@pytest.mark.parametrize("generation", [1, 3])
async def test_another_generation_is_a_409_that_changes_nothing(
    api: Api, clock: ManualClock, method: str, path: str, generation: int
) -> None:
    await api.register(instance_id="users-1")
    await api.register(instance_id="users-1")
    before = await api.get("/services/users")
    clock.advance(5)
    answer = await api(method, f"{path}?generation={generation}", b"" if method == "POST" else None)

    assert (answer.status, answer.json["code"]) == (409, "stale_generation")
    assert (await api.get("/services/users")).body == before.body
    assert (await api(method, f"{path}?generation=2", b"" if method == "POST" else None)).status == 200


async def test_a_service_lists_what_is_up_in_order_of_registration(api: Api) -> None:
    first = await api.register(instance_id="b")
    await api.register(instance_id="x", status="starting")
    await api.register(instance_id="y", status="down")
    second = await api.register(instance_id="a")

    assert (await api.get("/services/users")).json == {
        "service_name": "users",
        "instances": [first, second],
        "count": 2,
    }


async def test_a_name_that_nobody_registered_is_an_empty_list(api: Api) -> None:
    answer = await api.get("/services/nobody")

    assert (answer.status, answer.json) == (200, {"service_name": "nobody", "instances": [], "count": 0})


async def test_services_are_sorted_and_counted(api: Api) -> None:
    await api.register("users")
    await api.register("timelines")
    await api.register("users", status="down")

    answer = await api.get("/services")
    assert answer.body == b'{"services":{"timelines":{"count":1,"up":1},"users":{"count":2,"up":1}},"count":2}\n'


async def test_an_instance_is_gone_at_the_end_of_its_lease_from_every_answer(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="users-1", ttl=2.5)
    clock.advance(2.499)
    assert (await api.get("/services/users")).json["count"] == 1

    clock.advance(0.001)
    assert (await api.get("/services/users")).json["count"] == 0
    assert (await api.get("/services")).json["count"] == 0
    assert (await api.get("/instances/users-1")).status == 404
    assert (await api.post("/heartbeat/users-1")).status == 404
    assert (await api.get("/status")).json["leases"]["expired"] == 1


async def test_status_tells_how_the_registry_is(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="users-1")
    await api.post("/heartbeat/users-1")

    answer = await api.get("/status")
    assert answer.json == {
        "status": "ok",
        "version": "0.1.0",
        "started_at": "2024-01-15T10:30:00Z",
        "uptime_seconds": 12.5,
        "services": 1,
        "instances": 1,
        "watchers": 0,
        "index": FIRST_INDEX + 1,
        "heartbeat_timeout": 30.0,
        "cleanup_interval": 10.0,
        "store": {"kind": "recording"},
        "leases": {"renewed": 1, "expired": 0, "stalls": 0, "stalled_seconds": 0.0},
    }


async def test_every_read_says_how_current_it_is(api: Api) -> None:
    await api.register("users", instance_id="u1")
    await api.register("timelines", instance_id="t1")

    for path, index in [
        ("/services/users", 1), ("/services/timelines", 2), ("/services/nobody", 0), ("/services", 2),
        ("/instances/u1", 2), ("/instances/nobody", 2), ("/status", 2),
    ]:  # fmt: skip
        assert (await api.get(path)).headers["Registry-Index"] == str(FIRST_INDEX + index), path


@pytest.mark.parametrize("path", ["/services/users", "/services"])
async def test_a_list_has_a_weak_etag_that_a_heartbeat_leaves_alone(api: Api, clock: ManualClock, path: str) -> None:
    await api.register(instance_id="users-1")
    etag = (await api.get(path)).headers["ETag"]
    assert etag == f'W/"{FIRST_INDEX + 1}"'

    clock.advance(5)
    await api.post("/heartbeat/users-1")
    unchanged = await api.get(path, If_None_Match=etag)
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert unchanged.headers["ETag"] == etag
    assert unchanged.headers["Registry-Index"] == str(FIRST_INDEX + 1)

    await api.register(instance_id="users-2")
    assert (await api.get(path, If_None_Match=etag)).status == 200


async def test_liveness_and_readiness_are_two_questions(api: Api) -> None:
    for path in ("/livez", "/readyz"):
        answer = await api.get(path)
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert answer.headers["Content-Type"].startswith("text/plain")


class TestOfADaemonInTrouble:
    """The same calls while something is wrong with the process."""

    @pytest.fixture
    def daemon_view(self, daemon_view: Daemon) -> Daemon:
        return dataclasses.replace(daemon_view, reasons=lambda: ["sweep_late"], unready=lambda: ["draining"])

    async def test_status_is_degraded_with_the_reasons(self, api: Api) -> None:
        status = (await api.get("/status")).json

        assert (status["status"], status["reasons"]) == ("degraded", ["sweep_late"])

    async def test_readyz_names_what_is_not_ready(self, api: Api) -> None:
        answer = await api.get("/readyz")

        assert (answer.status, answer.json["code"]) == (503, "not_ready")
        assert "draining" in answer.json["detail"]
        assert (await api.get("/livez")).status == 200


async def test_reads_and_heartbeats_do_not_wait_for_a_registration(api: Api, store: RecordingStore) -> None:
    await api.register(instance_id="users-1")
    store.hold()
    slow = asyncio.ensure_future(api.register(instance_id="users-2"))
    await store.waiting.wait()

    assert (await api.post("/heartbeat/users-1")).status == 200
    assert (await api.get("/services/users")).json["count"] == 1
    store.release()
    await slow
    assert (await api.get("/services/users")).json["count"] == 2


async def test_what_is_sent_comes_back_as_it_was(api: Api) -> None:
    nasty = {"quote": '"\\', "html": "<script>", "line": "a\nb", "nul": "\x00", "emoji": "🦊"}
    await api.register(instance_id="!$&'()*+,;=:@[]^_`{|}~<>", metadata=nasty)

    shown = (await api.get("/services/users")).body
    assert json.loads(shown)["instances"][0]["metadata"] == nasty
    assert b"\n" not in shown[:-1]
