"""Suspects as clients see them: flagged, explained, told of, and gone again."""

import asyncio
from typing import Any

import pytest
from conftest import Api
from support import ManualClock, a_registration

from registryd.auth import Access, new_token, read
from registryd.registry import Registry

WHY = (
    "suspect: 12 of 20 leases of 'users' have gone silent (--suspect-share 0.5), so it may be us who cannot be "
    "reached; listed for another 30 s unless it is heard"
)


@pytest.fixture(autouse=True)
def share(registry: Registry) -> None:
    registry._state.suspect_share = 0.5


async def cut_off(registry: Registry, clock: ManualClock) -> None:
    """Twelve users of twenty, none of whom has been heard for 30 seconds."""
    for n in range(20):
        await registry.register(a_registration(instance_id=f"u{n}", ttl=30.0))
    clock.advance(20)
    registry.renew_all([f"u{n}" for n in range(12, 20)])
    clock.advance(10)


def flags(instances: Any) -> dict[str, object]:
    return {instance["instance_id"]: instance.get("suspect") for instance in instances}


async def test_suspects_are_listed_and_say_so(api: Api, registry: Registry, clock: ManualClock) -> None:
    await cut_off(registry, clock)
    expected = {f"u{n}": True if n < 12 else None for n in range(20)}
    for path in ("/services/users", "/services/users?status=any"):
        answer = await api.get(path)
        assert flags(answer.json["instances"]) == expected
        assert list(answer.json["instances"][0])[-1] == "suspect"
    assert (await api.get("/services")).json["services"] == {"users": {"count": 20, "up": 20}}
    one = (await api.get("/instances/u0")).json
    assert (one["status"], one["suspect"], one["last_heartbeat"]) == ("up", True, "2024-01-15T10:30:00Z")


@pytest.mark.parametrize("way", ["alone", "with a report", "with others", "by a takeover"])
async def test_a_heartbeat_ends_it(api: Api, registry: Registry, clock: ManualClock, way: str) -> None:
    await cut_off(registry, clock)
    tag = (await api.get("/services/users")).headers["Etag"]
    match way:
        case "alone":
            await api.post("/heartbeat/u0")
        case "with a report":
            await api.post("/heartbeat/u0", {"weight": 3})
        case "with others":
            assert (await api.post("/heartbeats", {"instance_ids": ["u0", "u0", "u19"]})).json["renewed"] == 3
        case "by a takeover":
            await api.register(instance_id="u0")
    answer = await api.get("/services/users", If_None_Match=tag)
    assert answer.status == 200
    assert [name for name, flag in flags(answer.json["instances"]).items() if flag] == [f"u{n}" for n in range(1, 12)]
    assert "suspect" not in (await api.get("/instances/u0")).json
    assert registry.lease("u0").expires_at == clock.now() + 30
    assert (await api.get("/explain/u0")).json["instances"][0]["why"] == (
        "it is up, and its last heartbeat came at 2024-01-15T10:30:30Z"
    )


async def test_status_has_the_arithmetic(api: Api, registry: Registry, clock: ManualClock) -> None:
    assert (await api.get("/status")).json["suspects"] == {"share": 0.5, "instances": 0, "services": {}}
    await cut_off(registry, clock)
    status = (await api.get("/status")).json
    assert status["suspects"] == {
        "share": 0.5,
        "instances": 12,
        "services": {"users": {"listed": 20, "of": 20, "silent": 12, "suspect": 12, "needed": 10}},
    }
    assert (status["instances"], status["leases"]["expired"]) == (20, 0)
    registry.renew_all([f"u{n}" for n in range(20)])
    assert (await api.get("/status")).json["suspects"]["services"] == {}


async def test_status_names_those_with_the_most_of_them(
    api: Api, registry: Registry, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registryd.registry.MOST_SUSPECTED", 2)
    for name, count in (("a", 10), ("b", 12), ("c", 11)):
        for n in range(count):
            await registry.register(a_registration(name, f"{name}{n}", ttl=30.0))
    clock.advance(30)
    assert list((await api.get("/status")).json["suspects"]["services"]) == ["b", "c"]


async def test_status_without_a_share_says_nothing_of_it(api: Api, registry: Registry, clock: ManualClock) -> None:
    await cut_off(registry, clock)
    registry.sweep()
    registry._state.suspect_share = 0.0
    assert (await api.get("/status")).json["suspects"]["instances"] == 12, "some are left"
    clock.advance(30)
    assert "suspects" not in (await api.get("/status")).json


async def test_explain_has_the_arithmetic_and_tells_how_it_came_and_went(
    api: Api, registry: Registry, clock: ManualClock
) -> None:
    await cut_off(registry, clock)
    (story,) = (await api.get("/explain/u0")).json["instances"]
    assert story["handed_out"] is True
    assert story["why"] == (
        "it is up, and its last heartbeat came at 2024-01-15T10:30:00Z; it is suspect, as 12 of 20 leases of 'users' "
        "had gone silent (--suspect-share 0.5), so that it may be us who cannot be reached: listed until "
        "2024-01-15T10:31:00Z unless it is heard"
    )
    await api.post("/heartbeat/u0")
    clock.advance(29)
    events = (await api.get("/explain/u0")).json["instances"][0]["events"]
    assert [(event["event"], event["why"]) for event in events] == [
        ("registered", "new"), ("updated", WHY), ("updated", "is heard again: no longer suspect"),
    ]  # fmt: skip
    clock.advance(1)
    gone = (await api.get("/explain/u1")).json["instances"][0]["events"]
    assert gone[-1]["why"] == "no heartbeat for 30 s, and for 30 s more as a suspect"


async def test_who_waits_is_woken(api: Api, registry: Registry, clock: ManualClock) -> None:
    await cut_off(registry, clock)
    index = (await api.get("/services/users")).headers["Registry-Index"]
    waiting = asyncio.ensure_future(api.get(f"/services/users?index={index}&wait=10s"))
    while not registry.feed.watchers:
        await asyncio.sleep(0)
    await api.post("/heartbeat/u0")
    assert flags((await waiting).json["instances"])["u0"] is None


async def test_an_override_wins_over_a_suspect_too(api: Api, registry: Registry, clock: ManualClock) -> None:
    await cut_off(registry, clock)
    drained = (await api.post("/drain/u0")).json
    assert (drained["status"], drained["suspect"]) == ("draining", True)
    assert "u0" not in flags((await api.get("/services/users")).json["instances"])
    assert (await api.post("/resume/u0")).json["suspect"] is True
    (story,) = (await api.get("/explain/u0")).json["instances"]
    assert story["handed_out"] is True


async def test_nobody_is_told_of_services_that_he_may_not_read(
    api: Api, registry: Registry, clock: ManualClock, access: Access, tmp_path: Any
) -> None:
    await cut_off(registry, clock)
    path = str(tmp_path / "auth.toml")
    tokens = {name: new_token(path, name, ["read"], [name]) for name in ("users", "media")}
    access.take(read(path))
    seen = {
        name: (await api.get("/status", Authorization=f"Bearer {token}")).json["suspects"]["services"]
        for name, token in tokens.items()
    }
    assert list(seen["users"]) == ["users"]
    assert seen["media"] == {}
