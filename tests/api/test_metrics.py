"""`GET /metrics`: what is counted, how it is told, and that nobody's path makes a metric of its own."""

import asyncio
from collections.abc import Mapping

import pytest
from conftest import Api, ExpectLog, refused
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from raw import Served, Wire
from support import ManualClock, RecordingStore, a_registration

from registryd.api.metrics import prefers_openmetrics
from registryd.auth import Access, Callers
from registryd.core.access import Caller
from registryd.core.errors import StoreUnavailable
from registryd.registry import Registry

#: What Prometheus 2.42 sends.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


async def scrape(api: Api) -> Mapping[str, float]:
    """Every sample, by its name and labels as they are written."""
    answer = await api.get("/metrics")
    assert answer.status == 200
    return {
        sample.name + "{" + ",".join(f'{label}="{sample.labels[label]}"' for label in sorted(sample.labels)) + "}": (
            sample.value
        )
        for family in plain_families(answer.body.decode())
        for sample in family.samples
    }


def requests(samples: Mapping[str, float]) -> dict[str, float]:
    """How many requests there were, but for those for the metrics."""
    prefix = "registryd_http_requests_total"
    return {
        name.removeprefix(prefix): value
        for name, value in samples.items()
        if name.startswith(prefix) and "/metrics" not in name
    }


def of(method: str, route: str, status: int) -> str:
    return f'{{method="{method}",route="{route}",status="{status}"}}'


async def test_it_is_plain_text_or_openmetrics_for_who_prefers_that(api: Api) -> None:
    await api.get("/livez")
    plain, rich = await api.get("/metrics"), await api.get("/metrics", Accept=PROMETHEUS)

    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert rich.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert plain.headers["Vary"] == rich.headers["Vary"] == "Accept"
    assert rich.body.endswith(b"# EOF\n")
    names = [
        {family.name.removesuffix("_total"): family.type for family in families(answer.body.decode())}
        for families, answer in ((plain_families, plain), (openmetrics_families, rich))
    ]
    assert names[0] == names[1]
    assert len(names[0]) > 30


@pytest.mark.parametrize(
    ("accept", "wants"),
    [
        ("", False),
        ("*/*", False),
        (PROMETHEUS, True),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Q=0.5", True),
        ("application/openmetrics-text;q=0.4, text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
        ("application/openmetrics-text;version=no;q=²", False),
        ("text/*, application/openmetrics-text;q=0.9", False),
    ],
)
def test_who_prefers_openmetrics(accept: str, wants: bool) -> None:
    assert prefers_openmetrics(accept) is wants


async def test_it_is_a_read_like_any_other(api: Api) -> None:
    head, options, post = await api("HEAD", "/metrics"), await api("OPTIONS", "/metrics"), await api.post("/metrics")

    assert (head.status, head.body) == (200, b"")
    assert (options.status, options.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
    refused(post, 405, "method_not_allowed")
    refused(await api.get("/metrics?name=x"), 400, "unknown_parameter", "name")


async def test_it_needs_the_right_to_read(api: Api, access: Access, expect_log: ExpectLog) -> None:
    access.take(Callers({}, {}, Caller("", ["read"], ["user*"])))
    assert (await api.get("/metrics")).status == 200

    access.take(Callers({}, {}, Caller("", ["register"], ["*"])))
    with expect_log("needs a token"):
        refused(await api.get("/metrics"), 401, "unauthorized")
    access.take(Callers({}, {}, Caller("", ["read"], ["*"])))
    assert (await scrape(api))['registryd_access_refused_total{reason="unauthorized"}'] == 1


async def test_each_instance_counts_with_its_status(api: Api, clock: ManualClock) -> None:
    for n in range(4):
        await api.register(instance_id=f"i{n}", ttl=100 if n else 10)
    await api.register("timelines", instance_id="t", status="starting")
    await api.post("/drain/i1")
    await api.post("/heartbeat/i2", {"status": "down"})
    clock.advance(20)
    samples = await scrape(api)

    assert {name: value for name, value in samples.items() if "instances{" in name} == {
        'registryd_instances{status="up"}': 1,
        'registryd_instances{status="starting"}': 1,
        'registryd_instances{status="down"}': 1,
        'registryd_instances{status="draining"}': 1,
        'registryd_instances{status="maintenance"}': 0,
    }
    assert samples["registryd_services{}"] == 2
    assert samples["registryd_leases_expired_total{}"] == 1
    assert samples["registryd_leases_renewed_total{}"] == 1
    assert samples['registryd_changes_total{kind="registered"}'] == 5
    assert samples['registryd_changes_total{kind="updated"}'] == 2
    assert samples['registryd_changes_total{kind="expired"}'] == 1


async def test_what_has_ended_does_not_count_although_its_turn_has_not_come(
    api: Api, clock: ManualClock, registry: Registry
) -> None:
    for n in range(1000):
        await registry.register(a_registration(f"s{n % 10}", f"i{n}"))
    clock.advance(31)
    registry.sweep()
    assert registry.is_behind
    assert sum(registry.statuses().values()) == 0

    samples = await scrape(api)
    assert samples['registryd_instances{status="up"}'] == samples["registryd_services{}"] == 0
    assert samples["registryd_leases_expired_total{}"] == 1000


async def test_every_request_counts_by_route_and_status_hot_or_not(api: Api) -> None:
    await api.register(instance_id="i1")
    for _ in range(3):
        await api.get("/services/users")
        await api.post("/heartbeat/i1")
        await api.post("/heartbeat/i1", {"weight": 1})
    await api.get("/services/users?status=any")
    await api.get("/services/nobody")
    await api("HEAD", "/services/users")
    await api.post("/heartbeat/i2")
    await api.get("/services/%20")
    await api("PUT", "/register")
    await api.post("/register", b"{")
    await api.get("/nothing/at/all")
    await api.post("/drain/i1")
    await api("OPTIONS", "/instances/i1")

    assert requests(await scrape(api)) == {
        of("POST", "/register", 200): 1,
        of("GET", "/services/{service_name}", 200): 5,
        of("POST", "/heartbeat/{instance_id}", 200): 6,
        of("HEAD", "/services/{service_name}", 200): 1,
        of("POST", "/heartbeat/{instance_id}", 404): 1,
        of("GET", "/services/{service_name}", 400): 1,
        of("PUT", "/register", 405): 1,
        of("POST", "/register", 400): 1,
        of("GET", "none", 404): 1,
        of("POST", "/drain/{instance_id}", 200): 1,
        of("OPTIONS", "/instances/{instance_id}", 204): 1,
    }


async def test_a_registration_that_waits_for_the_store_counts_too(
    api: Api, store: RecordingStore, expect_log: ExpectLog
) -> None:
    store.hold()
    waiting = asyncio.ensure_future(api.register(instance_id="i1"))
    await store.waiting.wait()
    store.release()
    await waiting
    store.fail_with(StoreUnavailable())
    await api.post("/register", {"service_name": "users", "base_url": "http://h"})
    store.fail_with(None)
    samples = await scrape(api)

    assert requests(samples) == {of("POST", "/register", 200): 1, of("POST", "/register", 503): 1}
    assert samples["registryd_http_request_duration_seconds_count" + of("POST", "/register", 200)] == 1


async def test_what_the_intake_refuses_counts_without_a_route(api: Api) -> None:
    await api.post("/register", b"x" * 300_000)
    await api.post("/register", b"x", Content_Encoding="gzip")

    assert requests(await scrape(api)) == {of("POST", "none", 413): 1, of("POST", "none", 415): 1}


async def test_no_path_and_no_method_makes_a_metric_of_its_own(api: Api, http_server: Served, http_kind: str) -> None:
    for n in range(20):
        await api.get(f"/nothing/{n}")
        await api.get(f"/services/{n}")
        await api.get(f"/instances/{n}?x{n}=1")
    async with Wire(http_server) as wire:
        await wire.send(b"BREW /services HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = await wire.answer()
    document = (await api.get("/openapi.json")).json
    counted = requests(await scrape(api))

    assert counted == {
        of("GET", "none", 404): 20,
        of("GET", "/services/{service_name}", 200): 20,
        of("GET", "/instances/{instance_id}", 400): 20,
        of("other", "/services" if http_kind == "tornado" else "none", answer.status): 1,
        of("GET", "/openapi.json", 200): 1,
    }
    routes = {name.split('route="')[1].split('"')[0] for name in counted}
    assert routes - {"none"} <= document["paths"].keys()


async def test_the_time_that_a_reader_wants_to_wait_is_not_ours(api: Api, registry: Registry) -> None:
    waiting = asyncio.ensure_future(api.get("/services/users?min=1&wait=60"))
    begun = asyncio.get_running_loop().time()
    while not registry.feed.watchers:
        await asyncio.sleep(0)
    while asyncio.get_running_loop().time() - begun < 0.05:
        await asyncio.sleep(0)
    await api.register()
    waited = asyncio.get_running_loop().time() - begun
    await waiting

    samples = await scrape(api)
    route = of("GET", "/services/{service_name}", 200)
    assert samples["registryd_http_request_duration_seconds_count" + route] == 1
    assert samples["registryd_http_request_duration_seconds_sum" + route] < waited


async def test_whose_client_has_gone_counts_as_499(api: Api, http_server: Served, registry: Registry) -> None:
    async with Wire(http_server) as wire:
        await wire.send(b"GET /services/users?min=1&wait=60 HTTP/1.1\r\nHost: h\r\n\r\n")
        while not registry.feed.watchers:
            await asyncio.sleep(0)
    while registry.feed.watchers:
        await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert requests(await scrape(api)) == {of("GET", "/services/{service_name}", 499): 1}


async def test_the_metrics_are_there_while_the_registry_recovers(api: Api, registry: Registry) -> None:
    registry.recover(30)

    assert (await api.get("/metrics")).status == 200
