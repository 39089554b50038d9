"""`GET /sd/prometheus`: the whole list, in Prometheus's form, in an order that stays, or a refusal."""

import asyncio
import re
from typing import Any

import pytest
from conftest import Api, ExpectLog, refused
from hypothesis import given
from hypothesis import strategies as st
from support import ManualClock, a_registration

from registryd.api.sd import SLICE, target
from registryd.auth import Access, Callers
from registryd.core.access import Caller
from registryd.core.model import Instance
from registryd.registry import Registry


async def groups(api: Api, query: str = "") -> list[Any]:
    answer = await api.get(f"/sd/prometheus{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    found: list[Any] = answer.json
    return found


async def ids(api: Api, query: str = "") -> list[str]:
    return [group["labels"]["__meta_registryd_instance_id"] for group in await groups(api, query)]


def an_instance(base_url: str = "http://10.0.0.5:8000", **metadata: str) -> Instance:
    return Instance(
        instance_id="i1", service_name="users", base_url=base_url, registered_at=0, status="up", ttl=30.0,
        metadata=metadata, tags=(), version="", zone="", weight=1, generation=1,
    )  # fmt: skip


async def test_an_instance_is_a_target_with_what_is_known_of_it(api: Api) -> None:
    assert await groups(api) == []

    await api.register(
        instance_id="u1", base_url="https://users.example/api", tags=["a", "b"], version="1.4", zone="eu-1",
        metadata={"team": "core", "owner/mail": "ann@example", "prometheus.io/path": "/internal/metrics"},
    )  # fmt: skip
    await api.register("timelines", instance_id="t1")

    assert await groups(api) == [
        {
            "targets": ["10.0.0.5:8000"],
            "labels": {
                "__meta_registryd_service": "timelines",
                "__meta_registryd_instance_id": "t1",
                "__meta_registryd_status": "up",
                "__meta_registryd_zone": "",
                "__meta_registryd_version": "",
                "__meta_registryd_tags": ",,",
                "__meta_registryd_scheme": "http",
                "__scheme__": "http",
            },
        },
        {
            "targets": ["users.example:443"],
            "labels": {
                "__meta_registryd_service": "users",
                "__meta_registryd_instance_id": "u1",
                "__meta_registryd_status": "up",
                "__meta_registryd_zone": "eu-1",
                "__meta_registryd_version": "1.4",
                "__meta_registryd_tags": ",a,b,",
                "__meta_registryd_scheme": "https",
                "__meta_registryd_metadata_owner_mail": "ann@example",
                "__meta_registryd_metadata_prometheus_io_path": "/internal/metrics",
                "__meta_registryd_metadata_team": "core",
                "__scheme__": "https",
                "__metrics_path__": "/internal/metrics",
            },
        },
    ]


async def test_all_are_listed_whatever_their_status_unless_the_query_says_otherwise(api: Api) -> None:
    for n, status in enumerate(("up", "starting", "down", "up", "up")):
        await api.register(instance_id=f"i{n}", status=status)
    await api.post("/drain/i3")
    await api.post("/maintenance/i4")

    assert await ids(api) == ["i0", "i1", "i2", "i3", "i4"]
    assert await ids(api, "?status=any") == ["i0", "i1", "i2", "i3", "i4"]
    assert await ids(api, "?status=up,draining") == ["i0", "i3"]
    assert [group["labels"]["__meta_registryd_status"] for group in await groups(api)] == [
        "up", "starting", "down", "draining", "maintenance",
    ]  # fmt: skip


async def test_the_query_chooses_as_elsewhere(api: Api) -> None:
    await api.register("a", instance_id="a1", tags=["x", "y"], version="1", zone="eu", metadata={"k.1": "v"})
    await api.register("a", instance_id="a2", tags=["x"], version="2", zone="us")
    await api.register("b", instance_id="b1", tags=["x"])
    await api.register("c", instance_id="c1")

    assert await ids(api, "?service=a") == ["a1", "a2"]
    assert await ids(api, "?service=c&service=a&service=nobody") == ["a1", "a2", "c1"]
    assert await ids(api, "?service=nobody") == []
    assert await ids(api, "?tag=x&tag=y") == ["a1"]
    assert await ids(api, "?version=2") == ["a2"]
    assert await ids(api, "?zone=eu&meta.k.1=v") == ["a1"]
    refused(await api.get("/sd/prometheus?limit=1"), 400, "unknown_parameter", "limit")
    refused(await api.get("/sd/prometheus?status=well"), 400, "invalid_parameter", "status")
    refused(await api.get("/sd/prometheus?service=%20"), 400, "invalid_parameter", "service")


async def test_the_order_stays_whatever_happens(api: Api) -> None:
    for name in ("b2", "a1", "b1", "a2"):
        await api.register(name[0], instance_id=name)
    await api.post("/heartbeat/b2", {"weight": 2})
    await api.register("a", instance_id="a1")
    await api.delete("/deregister/b1")
    await api.register("b", instance_id="b1")

    assert await ids(api) == ["a1", "a2", "b1", "b2"]


async def test_it_is_never_a_304_and_says_how_current_it_is(api: Api) -> None:
    await api.register()
    first = await api.get("/sd/prometheus")
    again = await api.get("/sd/prometheus", If_None_Match=f'W/"{first.headers["Registry-Index"]}"')

    assert (again.status, again.body) == (200, first.body)
    head, post = await api("HEAD", "/sd/prometheus"), await api.post("/sd/prometheus")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(first.body)))
    refused(post, 405, "method_not_allowed")


async def test_while_nobody_can_know_it_is_a_503_and_not_a_list(api: Api, registry: Registry) -> None:
    registry.recover(30)
    await api.register()

    refused(await api.get("/sd/prometheus"), 503, "recovering")


async def test_who_is_listed_is_alive_however_many_have_died(api: Api, clock: ManualClock, registry: Registry) -> None:
    for n in range(3 * SLICE):
        await registry.register(a_registration("users", f"i{n}", ttl=100.0 if n % 3 == 0 else 30.0))
    clock.advance(31)

    assert len(await ids(api)) == SLICE


async def test_it_is_all_of_one_moment(api: Api, registry: Registry) -> None:
    """Although others have their turn while it is rendered."""
    for n in range(5 * SLICE):
        await registry.register(a_registration("users", f"i{n:04}"))
    asked = asyncio.ensure_future(api.get("/sd/prometheus"))
    served = 0
    while not asked.done():
        await api.post(f"/heartbeat/i{served:04}", {"status": "down"})
        served += 1
    answer = await asked
    index = int(answer.headers["Registry-Index"])
    statuses = [group["labels"]["__meta_registryd_status"] for group in answer.json]

    assert len(statuses) == 5 * SLICE
    down = statuses.count("down")
    assert statuses == ["down"] * down + ["up"] * (5 * SLICE - down)
    assert index - registry.feed.index + served == down, "as many as had been told of by then"


async def test_one_sees_what_one_may_read(api: Api, access: Access, expect_log: ExpectLog) -> None:
    for name in ("users", "timelines"):
        await api.register(name, instance_id=name)
    access.take(Callers({}, {}, Caller("", ["read"], ["u*"])))

    assert await ids(api) == await ids(api, "?service=users") == ["users"]
    with expect_log("needs a token"):
        refused(await api.get("/sd/prometheus?service=timelines"), 401, "unauthorized")
    access.take(Callers({}, {}, Caller("", ["read"], ["x*"])))
    assert await ids(api) == []
    access.take(Callers({}, {}, Caller("", ["register"], ["*"])))
    with expect_log("needs a token"):
        refused(await api.get("/sd/prometheus"), 401, "unauthorized")
    access.take(Callers({}, {}, None))
    with expect_log("needs a token"):
        refused(await api.get("/sd/prometheus"), 401, "unauthorized")


async def test_only_what_it_gives_counts_as_handed_out(api: Api, clock: ManualClock) -> None:
    await api.register(instance_id="i1", zone="eu")
    await api.register(instance_id="i2", zone="us")
    clock.advance(5)
    await api.get("/sd/prometheus?zone=eu")
    await api("HEAD", "/sd/prometheus")

    given = [(await api.post(f"/drain/{name}")).json["last_handed_out_at"] for name in ("i1", "i2")]
    assert given == ["2024-01-15T10:30:05Z", None]


@pytest.mark.parametrize(
    ("base_url", "metadata", "address", "scheme", "path"),
    [
        ("http://h", {}, "h:80", "http", None),
        ("https://h/x?y", {}, "h:443", "https", None),
        ("HTTP://[2001:db8:0::1]:81", {}, "[2001:db8::1]:81", "http", None),
        ("https://[::1]", {}, "[::1]:443", "https", None),
        ("http://h:0", {}, "h:80", "http", None),
        ("http://h:8000", {"prometheus.io/port": "9100", "prometheus.io/path": "/m"}, "h:9100", "http", "/m"),
        ("http://h", {"prometheus.io/scheme": "https"}, "h:443", "https", None),
        ("http://h", {"prometheus.io/scheme": "ftp"}, "h:80", "http", None),
        ("http://h:8000", {"prometheus.io/port": "0", "prometheus.io/path": "m"}, "h:8000", "http", None),
        ("http://h:8000", {"prometheus.io/port": "65536"}, "h:8000", "http", None),
        ("http://h:8000", {"prometheus.io/port": "٣"}, "h:8000", "http", None),
        ("http://h:8000", {"prometheus.io/scrape": "False"}, None, None, None),
        ("http://h:8000", {"prometheus.io/scrape": "true"}, "h:8000", "http", None),
        ("grpc://h:50051", {}, "h:50051", None, None),
        ("grpc://h:50051", {"prometheus.io/port": "9100", "prometheus.io/scheme": "http"}, "h:9100", "http", None),
        ("amqp://h", {}, None, None, None),
    ],
)
def test_where_its_metrics_are(
    base_url: str, metadata: dict[str, str], address: str | None, scheme: str | None, path: str | None
) -> None:
    found = target(an_instance(base_url, **metadata), "up")

    if address is None:
        assert found is None
        return
    assert found is not None
    assert found.targets == [address]
    assert (found.labels.get("__scheme__"), found.labels.get("__metrics_path__")) == (scheme, path)


def test_of_two_keys_that_become_one_label_the_first_in_order_counts() -> None:
    found = target(an_instance(**{"a_b": "3", "a.b": "2", "a-b": "1"}), "up")

    assert found is not None
    assert found.labels["__meta_registryd_metadata_a_b"] == "1"


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=5))
def test_every_label_has_a_name_that_prometheus_takes(metadata: dict[str, str]) -> None:
    found = target(an_instance(**metadata), "up")

    if found is not None:
        assert all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) for name in found.labels)
        assert found.labels["__meta_registryd_service"] == "users"
