"""`GET /leases`: how long leases still run, for someone who looks on and is handed out nothing."""

from conftest import Api, refused
from support import ManualClock

from registryd.registry import Registry


async def test_it_tells_how_long_each_lease_still_runs(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a", ttl=30)
    clock.advance(4.25)
    await api.register(instance_id="b", ttl=10)
    clock.advance(1)
    answer = await api.get("/leases?instance_id=b&instance_id=a&instance_id=nobody&instance_id=b")

    assert answer.json == {
        "leases": [
            {"instance_id": "b", "last_heartbeat": "2024-01-15T10:30:04Z", "ttl": 10.0, "seconds_left": 9.0},
            {"instance_id": "a", "last_heartbeat": "2024-01-15T10:30:00Z", "ttl": 30.0, "seconds_left": 24.75},
        ],
        "count": 2,
    }
    await api.post("/heartbeat/a")
    assert (await api.get("/leases?instance_id=a")).json["leases"][0]["seconds_left"] == 30.0


async def test_a_lease_that_has_ended_is_not_there(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a", ttl=5)
    clock.advance(5)

    assert (await api.get("/leases?instance_id=a")).json == {"leases": [], "count": 0}
    assert (await api.get("/leases")).json == {"leases": [], "count": 0}


async def test_nobody_is_handed_out_by_it(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="a", ttl=600)
    await api.get("/services/users")
    clock.advance(60)
    await api.get("/leases?instance_id=a")
    await api.get("/explain/a")

    assert (await api.post("/drain/a")).json["last_handed_out_at"] == "2024-01-15T10:30:00Z"


async def test_what_is_no_id_and_what_nobody_knows_yet_is_refused(api: Api, registry: Registry) -> None:
    refused(await api.get("/leases?id=a"), 400, "unknown_parameter", "id")
    for bad in ("", "x" * 129):
        refused(await api.get(f"/leases?instance_id=a&instance_id={bad}"), 400, "invalid_parameter", "instance_id")
    registry.recover(30)
    refused(await api.get("/leases?instance_id=a"), 503, "recovering")
