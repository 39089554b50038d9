"""Choosing, overriding, beating for many, and asking why, over real HTTP."""

from typing import Any

import pytest
from conftest import Api, refused
from support import FIRST_INDEX, ManualClock, RecordingStore

from registryd.core.limits import Limits
from registryd.registry import Registry


def ids(answer: Any) -> list[str]:
    return [instance["instance_id"] for instance in answer.json["instances"]]


@pytest.mark.parametrize(
    ("query", "chosen"),
    [
        ("", ["a", "b"]),
        ("status=any", ["a", "b", "c", "d"]),
        ("status=starting", ["c"]),
        ("status=up,draining", ["a", "b", "d"]),
        ("tag=blue", ["a", "b"]),
        ("tag=blue&tag=canary", ["a"]),
        ("version=2", ["b"]),
        ("zone=eu", ["a"]),
        ("zone=eu&status=any", ["a", "c"]),
        ("meta.rack=7", ["b"]),
        ("meta.rack=7&meta.os=linux", ["b"]),
        ("meta.rack=7&meta.os=bsd", []),
        ("meta.a%2Fb=c%20d", ["a"]),
        ("meta.%D0%BA=%D0%B7", ["a"]),
        ("near=us", ["b", "a"]),
        ("near=us&limit=1", ["b"]),
        ("limit=1", ["a"]),
        ("pick=1&near=us", ["b"]),
        ("pick=1&tag=canary", ["a"]),
        ("pick=1&tag=none", []),
        ("status=any&limit=3&near=us", ["b", "a", "c"]),
    ],
)
async def test_the_query_chooses(api: Api, query: str, chosen: list[str]) -> None:
    await api.register(instance_id="a", tags=["blue", "canary"], zone="eu", metadata={"a/b": "c d", "к": "з"})
    await api.register(instance_id="b", tags=["blue"], zone="us", version="2", metadata={"rack": "7", "os": "linux"})
    await api.register(instance_id="c", status="starting", zone="eu")
    await api.register(instance_id="d")
    await api.post("/drain/d")

    answer = await api.get(f"/services/users?{query}")
    assert ids(answer) == chosen
    assert answer.json["count"] == len(chosen)


async def test_a_pick_is_not_cached(api: Api) -> None:
    await api.register(instance_id="a")

    assert "ETag" not in (await api.get("/services/users?pick=1")).headers
    assert "ETag" in (await api.get("/services/users?tag=blue")).headers


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("status=", "status"),
        ("status=UP", "status"),
        ("status=up,", "status"),
        ("status=up,any", "status"),
        ("tag=", "tag"),
        ("tag=" + "x" * 129, "tag"),
        ("&".join(f"tag={n}" for n in range(65)), "tag"),
        ("version=" + "x" * 65, "version"),
        ("near=" + "x" * 65, "near"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("limit=null", "limit"),
        ("pick=2", "pick"),
        ("pick=0", "pick"),
        ("pick=", "pick"),
        ("index=x", "index"),
        ("index=-1", "index"),
        ("index=99999999999999999999", "index"),
        ("min=-1", "min"),
        ("min=x", "min"),
        ("wait=", "wait"),
        ("wait=soon", "wait"),
        ("wait=-1s", "wait"),
        ("wait=11m", "wait"),
        ("wait=601", "wait"),
        ("wait=1e2", "wait"),
        ("wait=1s%20", "wait"),
        ("wait=%D9%A1s", "wait"),
        ("version=1&version=2", "version"),
        ("wait=1s&wait=2s", "wait"),
        ("meta.a=1&meta.a=2", "meta.a"),
        ("meta.a=" + "x" * 1025, "meta"),
    ],
)
async def test_a_bad_parameter_is_refused_by_name(api: Api, query: str, parameter: str) -> None:
    refused(await api.get(f"/services/users?{query}"), 400, "invalid_parameter", parameter)


@pytest.mark.parametrize("query", ["meta=x", "meta=", "statuses=up", "least=1", "Tag=x", "ttl=3"])
async def test_an_unknown_parameter_is_refused_with_those_there_are(api: Api, query: str) -> None:
    name = query.partition("=")[0]

    detail = refused(await api.get(f"/services/users?{query}"), 400, "unknown_parameter", name)
    assert detail.endswith("it takes index, wait, status, tag, version, zone, near, meta.KEY, limit, pick, min")


# Overrides


async def test_drain_takes_an_instance_out_of_service_and_says_since_when(api: Api, clock: ManualClock) -> None:
    registered = await api.register(instance_id="a")
    clock.advance(5)
    await api.get("/services/users")
    clock.advance(5)
    answer = await api.post("/drain/a", {"reason": "deploy 42", "for": 60})

    assert (answer.status, answer.json) == (
        200,
        registered
        | {
            "status": "draining",
            "override": {
                "status": "draining",
                "reason": "deploy 42",
                "since": "2024-01-15T10:30:10Z",
                "until": "2024-01-15T10:31:10Z",
            },
            "last_handed_out_at": "2024-01-15T10:30:05Z",
        },
    )
    assert ids(await api.get("/services/users")) == []
    assert (await api.get("/services")).json["services"] == {"users": {"count": 1, "up": 0}}


@pytest.mark.parametrize("body", [b"", b"{}", {"reason": None, "for": None}])
async def test_an_override_needs_neither_reason_nor_end(api: Api, body: object) -> None:
    await api.register(instance_id="a")
    answer = await api.post("/maintenance/a", body)

    assert answer.json["override"] == {
        "status": "maintenance", "reason": "", "since": "2024-01-15T10:30:00Z", "until": None,
    }  # fmt: skip
    assert answer.json["last_handed_out_at"] is None


async def test_an_override_survives_heartbeats_and_a_new_registration(api: Api) -> None:
    await api.register(instance_id="a")
    await api.post("/drain/a")
    assert (await api.post("/heartbeat/a")).json["status"] == "draining"
    assert (await api.post("/heartbeat/a", {"status": "up"})).json["status"] == "draining"
    assert (await api.register(instance_id="a"))["status"] == "draining"
    await api.delete("/deregister/a")
    again = await api.register(instance_id="a")

    assert (again["status"], again["generation"]) == ("draining", 3)
    assert ids(await api.get("/services/users")) == []
    resumed = await api.post("/resume/a")
    assert (resumed.status, resumed.json["status"], "override" in resumed.json) == (200, "up", False)
    assert ids(await api.get("/services/users")) == ["a"]


async def test_an_override_ends_by_itself(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a", ttl=3600)
    await api.post("/maintenance/a", {"for": 0.5})
    before = (await api.get("/services/users")).headers["Registry-Index"]
    clock.advance(0.5)

    answer = await api.get("/services/users")
    assert ids(answer) == ["a"]
    assert int(answer.headers["Registry-Index"]) == int(before) + 1


@pytest.mark.parametrize("call", ["drain", "maintenance", "resume"])
async def test_an_unknown_instance_cannot_be_overridden(api: Api, call: str) -> None:
    refused(await api.post(f"/{call}/nobody"), 404, "unknown_instance")


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"for": 0}, "invalid_field", "for"),
        ({"for": -1}, "invalid_field", "for"),
        ({"for": "1h"}, "invalid_field", "for"),
        ({"for": 31_536_001}, "invalid_field", "for"),
        ({"reason": 1}, "invalid_field", "reason"),
        ({"reason": "x" * 257}, "invalid_field", "reason"),
        ({"seconds": 5}, "unknown_field", "seconds"),
        (b"[]", "invalid_body", "body"),
        (b"{", "invalid_json", "body"),
    ],
)
async def test_a_bad_override_is_refused(api: Api, store: RecordingStore, body: object, code: str, field: str) -> None:
    await api.register(instance_id="a")

    refused(await api.post("/drain/a", body), 400, code, field)
    assert len(store.changes) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/services/users",
        "/services/users?status=any",
        "/services/users?pick=1&status=any",
        "/services/users?limit=1&status=any&near=eu",
        "/services/users?min=1&status=any",
        "/instances/a",
    ],
)
async def test_every_way_to_be_handed_out_is_noted(api: Api, clock: ManualClock, path: str) -> None:
    await api.register(instance_id="a")
    clock.advance(7)
    assert b'"instance_id":"a"' in (await api.get(path)).body
    clock.advance(7)

    assert (await api.post("/drain/a")).json["last_handed_out_at"] == "2024-01-15T10:30:07Z"


@pytest.mark.parametrize(
    "path",
    [
        "/services",
        "/status",
        "/explain/a",
        "/services/users?tag=none",
        "/services/users?limit=1",
        "/services/users?min=3",
    ],
)
async def test_what_does_not_hand_it_out_is_not(api: Api, clock: ManualClock, path: str) -> None:
    await api.register(instance_id="other")
    await api.register(instance_id="a")
    clock.advance(7)
    await api.get(path)

    assert (await api.post("/drain/a")).json["last_handed_out_at"] is None


async def test_a_head_hands_out_nothing_and_a_304_what_it_confirms(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a")
    clock.advance(1)
    for path in ("/services/users", "/services/users?tag=none&status=any", "/services/users?limit=1", "/instances/a"):
        await api("HEAD", path)
    assert (await api.get("/explain/a")).json["instances"][0]["last_handed_out_at"] is None

    etag = (await api.get("/services/users")).headers["ETag"]
    clock.advance(5)
    assert (await api.get("/services/users", If_None_Match=etag)).status == 304
    assert (await api.post("/drain/a")).json["last_handed_out_at"] == "2024-01-15T10:30:06Z"


async def test_a_drained_instance_is_not_handed_out_any_more(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a")
    await api.post("/drain/a")
    for _ in range(5):
        clock.advance(1)
        await api.get("/services/users")
        await api.post("/heartbeat/a")

    assert (await api.post("/drain/a")).json["last_handed_out_at"] is None


async def test_draining_again_changes_nothing_unless_it_says_something_new(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a")
    first = (await api.post("/drain/a", {"reason": "deploy 42", "for": 600})).json
    clock.advance(5)
    assert (await api.post("/drain/a")).json == first
    assert (await api.get("/services/users")).headers["Registry-Index"] == str(FIRST_INDEX + 2)

    assert (await api.post("/drain/a", {"reason": "deploy 43"})).json["override"]["reason"] == "deploy 43"
    assert (await api.post("/maintenance/a")).json["override"]["status"] == "maintenance"


# Generations


async def test_a_late_word_of_an_old_life_is_refused_even_after_its_end(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a")
    clock.advance(30)
    assert (await api.register(instance_id="a"))["generation"] == 2

    for answer in (await api.post("/heartbeat/a?generation=1"), await api.delete("/deregister/a?generation=1")):
        refused(answer, 409, "stale_generation")
    assert ids(await api.get("/services/users")) == ["a"]


# Many heartbeats


async def test_many_heartbeats_at_once(api: Api, clock: ManualClock, registry: Registry) -> None:
    for n in range(50):
        await api.register(instance_id=f"i{n}")
    clock.advance(29)
    answer = await api.post("/heartbeats", {"instance_ids": [*(f"i{n}" for n in range(50)), "nobody", "a/b", ""]})
    clock.advance(29)

    assert (answer.status, answer.json) == (200, {"renewed": 50, "unknown": ["nobody", "a/b", ""]})
    assert (await api.get("/services/users")).json["count"] == 50
    assert registry.tally().renewed == 50


async def test_no_heartbeats_at_once(api: Api) -> None:
    assert (await api.post("/heartbeats", {"instance_ids": []})).json == {"renewed": 0, "unknown": []}


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", "missing_body", "body"),
        ({}, "missing_field", "instance_ids"),
        ({"instance_ids": "a"}, "invalid_field", "instance_ids"),
        ({"instance_ids": {"a": 1}}, "invalid_field", "instance_ids"),
        ({"instance_ids": ["a", 1]}, "invalid_field", "instance_ids"),
        ({"instance_ids": ["a", None]}, "invalid_field", "instance_ids"),
        ({"instance_ids": ["a"] * 10_001}, "invalid_field", "instance_ids"),
        ({"instance_ids": [], "ids": []}, "unknown_field", "ids"),
        (b'["a"]', "invalid_body", "body"),
    ],
)
async def test_a_bad_list_of_ids_is_refused_and_renews_nobody(
    api: Api, registry: Registry, body: object, code: str, field: str
) -> None:
    await api.register(instance_id="a")

    refused(await api.post("/heartbeats", body), 400, code, field)
    assert registry.tally().renewed == 0


# Why


async def test_explain_tells_the_story_of_an_instance(api: Api, clock: ManualClock) -> None:
    await api.post(
        "/register", {"service_name": "users", "base_url": "http://h:1", "instance_id": "a"}, User_Agent="deployer/1"
    )
    await api.get("/services/users")
    clock.advance(10)
    await api.post("/drain/a", {"reason": "disk"}, User_Agent="curl/7")

    answer = await api.get("/explain/a")
    assert answer.headers["Registry-Index"] == str(FIRST_INDEX + 2)
    override = {"status": "draining", "reason": "disk", "since": "2024-01-15T10:30:10Z", "until": None}
    assert answer.json == {
        "subject": "a",
        "instances": [
            {
                "instance_id": "a",
                "service_name": "users",
                "handed_out": False,
                "why": "an operator has laid draining over it at 2024-01-15T10:30:10Z: disk",
                "status": "draining",
                "override": override,
                "last_handed_out_at": "2024-01-15T10:30:00Z",
                "events": [
                    {
                        "at": "2024-01-15T10:30:00Z", "event": "registered", "index": FIRST_INDEX + 1, "why": "new",
                        "address": "127.0.0.1", "user_agent": "deployer/1",
                    },
                    {
                        "at": "2024-01-15T10:30:10Z", "event": "updated", "index": FIRST_INDEX + 2,
                        "why": "draining: disk", "address": "127.0.0.1", "user_agent": "curl/7",
                    },
                ],
            }
        ],
        "count": 1,
    }  # fmt: skip


async def why(api: Api, subject: str = "a") -> tuple[bool, str]:
    answer = (await api.get(f"/explain/{subject}")).json
    if not answer["instances"]:
        return False, answer["why"]
    return answer["instances"][0]["handed_out"], answer["instances"][0]["why"]


async def test_explain_has_a_reason_for_every_case(api: Api, clock: ManualClock) -> None:
    assert await why(api) == (
        False,
        "never seen: no such instance and no such service, or gone for more than an hour",
    )
    await api.register(instance_id="a", status="starting")
    assert await why(api) == (False, "it says of itself that it is starting")
    await api.post("/heartbeat/a", {"status": "up"})
    assert await why(api) == (True, "it is up, and its last heartbeat came at 2024-01-15T10:30:00Z")
    await api.post("/maintenance/a", {"for": 5})
    assert await why(api) == (
        False,
        "an operator has laid maintenance over it at 2024-01-15T10:30:00Z until 2024-01-15T10:30:05Z",
    )
    clock.advance(5)
    assert (await why(api))[0]
    await api.delete("/deregister/a")
    assert await why(api) == (False, "it was deregistered at 2024-01-15T10:30:05Z: its owner asked for it")
    await api.register(instance_id="a")
    clock.advance(30)
    assert await why(api) == (False, "its lease ended at 2024-01-15T10:30:35Z: no heartbeat for 30 s")
    clock.advance(3600)
    assert (await why(api))[1].startswith("never seen")


async def test_explain_tells_of_every_instance_of_a_service_and_of_those_gone(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a")
    await api.register(instance_id="b", status="down")
    await api.register(instance_id="c")
    await api.delete("/deregister/c")
    await api.register("timelines", instance_id="t")

    answer = (await api.get("/explain/users")).json
    assert [(one["instance_id"], one["handed_out"]) for one in answer["instances"]] == [
        ("a", True), ("b", False), ("c", False),
    ]  # fmt: skip


async def test_a_subject_may_be_an_instance_and_a_service(api: Api) -> None:
    await api.register("both", instance_id="a")
    await api.register("users", instance_id="both")

    answer = (await api.get("/explain/both")).json
    assert [one["instance_id"] for one in answer["instances"]] == ["both", "a"]


async def test_only_the_last_events_are_told(api: Api) -> None:
    await api.register(instance_id="a")
    for n in range(50):
        await api.post("/heartbeat/a", {"weight": n})

    (one,) = (await api.get("/explain/a")).json["instances"]
    assert len(one["events"]) == 20


async def test_a_long_user_agent_is_cut(api: Api) -> None:
    await api.post(
        "/register", {"service_name": "users", "base_url": "http://h", "instance_id": "a"}, User_Agent="x" * 999
    )

    (one,) = (await api.get("/explain/a")).json["instances"]
    assert one["events"][0]["user_agent"] == "x" * 256


class TestOfSmallLimits:
    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(heartbeat_ids=2, reason_length=3, override_seconds=10)

    @pytest.mark.parametrize(
        ("path", "body", "field", "flag"),
        [
            ("/heartbeats", {"instance_ids": ["a", "b", "c"]}, "instance_ids", "--max-heartbeat-ids"),
            ("/drain/a", {"reason": "long"}, "reason", "--max-reason-length"),
            ("/drain/a", {"for": 11}, "for", "--max-override-seconds"),
        ],
    )
    async def test_a_refusal_names_the_limit(self, api: Api, path: str, body: object, field: str, flag: str) -> None:
        await api.register(instance_id="a")

        assert flag in refused(await api.post(path, body), 400, "invalid_field", field)
