"""Access control over HTTP: for each call what it needs, what it says to whom, and that nobody learns more."""

import asyncio
from typing import NamedTuple

import pytest
from conftest import Answer, Api, ExpectLog, refused
from support import RecordingStore

from registryd.api.watch import Broadcast
from registryd.auth import Access, Callers, new_token, read
from registryd.core.access import EVERYONE, Caller
from registryd.core.errors import StoreUnavailable
from registryd.overload import Overload
from registryd.registry import Registry

USERS = {"service_name": "users", "base_url": "http://10.0.0.5:8000", "instance_id": "u1"}


class Tokens(NamedTuple):
    """Each with the Authorization header that shows it."""

    reader: dict[str, str]
    owner: dict[str, str]
    other: dict[str, str]
    blind: dict[str, str]
    operator: dict[str, str]
    admin: dict[str, str]


#: Name, rights, services of each.
GIVEN = {
    "reader": (["read"], ["users"]),
    "owner": (["register"], ["user*"]),
    "other": (["register", "read"], ["*"]),
    "blind": (["read", "register", "operate"], ["media"]),
    "operator": (["operate"], ["users"]),
    "admin": (["admin"], ["*"]),
}

#: Every call that needs a token: who may, when an instance of the owner's is there.
CALLS: dict[tuple[str, str], set[str]] = {
    ("POST", "/register"): {"owner", "admin"},
    ("POST", "/heartbeat/u1"): {"owner", "operator", "admin"},
    ("DELETE", "/deregister/u1"): {"owner", "operator", "admin"},
    ("POST", "/drain/u1"): {"operator", "admin"},
    ("POST", "/maintenance/u1"): {"operator", "admin"},
    ("POST", "/resume/u1"): {"operator", "admin"},
    ("GET", "/instances/u1"): {"reader", "owner", "other", "operator", "admin"},
    ("GET", "/services/users"): {"reader", "other", "operator", "admin"},
    ("GET", "/services/users?limit=1"): {"reader", "other", "operator", "admin"},
    ("GET", "/watch?service=users"): {"reader", "other", "operator", "admin"},
    ("HEAD", "/watch"): {"other", "admin"},
    ("HEAD", "/services/users"): {"reader", "other", "operator", "admin"},
    ("GET", "/services"): {"reader", "other", "blind", "operator", "admin"},
    ("GET", "/status"): {"reader", "other", "blind", "operator", "admin"},
    ("POST", "/heartbeats"): {"owner", "other", "blind", "operator", "admin"},
    ("GET", "/explain/u1"): {"reader", "owner", "other", "blind", "operator", "admin"},
    ("GET", "/leases?instance_id=u1"): {"reader", "owner", "other", "blind", "operator", "admin"},
}
BODIES = {"/register": USERS, "/heartbeats": {"instance_ids": ["nobody"]}}


@pytest.fixture
def tokens(access: Access, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Of access control that is in force."""
    path = str(tmp_path_factory.mktemp("auth") / "auth.toml")
    made = {
        name: {"Authorization": f"Bearer {new_token(path, name, allow, services)}"}
        for name, (allow, services) in GIVEN.items()
    }
    access.take(read(path))
    return Tokens(**made)


async def call(api: Api, method: str, path: str, headers: dict[str, str]) -> Answer:
    return await api("HEAD" if path.startswith("/watch") else method, path, BODIES.get(path), **headers)


async def register(api: Api, headers: dict[str, str], **more: object) -> Answer:
    answer = await api("POST", "/register", USERS | more, **headers)
    assert answer.status == 200, answer.body
    return answer


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_without_a_known_token_there_is_nothing_to_be_had(
    api: Api, tokens: Tokens, method: str, path: str, expect_log: ExpectLog
) -> None:
    await register(api, tokens.owner)
    for shown, challenge in [
        ({}, 'Bearer realm="registryd"'),
        ({"Authorization": "Bearer rgd_x"}, 'Bearer realm="registryd", error="invalid_token"'),
        ({"Authorization": "Basic dTpw"}, 'Bearer realm="registryd", error="invalid_token"'),
    ]:
        for where in (path, path.replace("u1", "nobody")):
            with expect_log("refused peer=127.0.0.1 request="):
                answer = await call(api, method, where, shown)
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == challenge
            assert "HEAD" in (method, *(["HEAD"] if where.startswith("/watch") else [])) or (
                answer.json["code"] == "unauthorized"
            )


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_each_call_is_for_those_who_have_the_right(
    api: Api, tokens: Tokens, method: str, path: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    await register(api, tokens.owner)
    answer = await call(api, method, path, getattr(tokens, name))
    refusals = [record for record in caplog.records if record.message.startswith("refused ")]
    caplog.clear()

    if name in CALLS[method, path]:
        assert answer.status == 200, answer.body
        assert not refusals
    else:
        assert answer.status in (403, 404), answer.body
        assert len(refusals) == 1


@pytest.mark.parametrize(
    "path",
    ["/heartbeat/{}", "/drain/{}", "/maintenance/{}", "/resume/{}", "/deregister/{}", "/instances/{}", "/explain/{}"],
)
async def test_who_may_not_read_a_service_does_not_learn_what_is_in_it(
    api: Api, tokens: Tokens, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    method = {"/deregister/{}": "DELETE", "/instances/{}": "GET", "/explain/{}": "GET"}.get(path, "POST")
    await register(api, tokens.owner)
    there = await api(method, path.format("u1"), **tokens.blind)
    not_there = await api(method, path.format("u2"), **tokens.blind)

    caplog.clear()  # what is noted is tested below
    assert there.status == not_there.status
    assert there.body.replace(b"u1", b"u2") == not_there.body


async def test_lists_have_what_one_may_read(api: Api, tokens: Tokens, expect_log: ExpectLog) -> None:
    await register(api, tokens.owner)
    await register(api, tokens.admin, service_name="media", instance_id="m1")

    assert list((await api("GET", "/services", **tokens.reader)).json["services"]) == ["users"]
    assert list((await api("GET", "/services", **tokens.blind)).json["services"]) == ["media"]
    assert (await api("GET", "/services", **tokens.admin)).json["count"] == 2
    for service_name in ("users", "nobody"):
        with expect_log("refused peer=127.0.0.1 request="):
            answer = await api("GET", f"/services/{service_name}", **tokens.blind)
        assert answer.status == 403
        assert answer.json["detail"] == (
            f"token 'blind' has not the right `read` for service '{service_name}'; use a token that has"
        )
    explained = (await api("GET", "/explain/users", **tokens.blind)).json
    assert explained["instances"] == []


async def test_a_batch_renews_ones_own_and_does_not_know_the_others(
    api: Api, tokens: Tokens, access: Access, expect_log: ExpectLog
) -> None:
    await register(api, tokens.owner)
    await register(api, tokens.other, instance_id="u2")
    body = {"instance_ids": ["u1", "u2", "u3"]}

    with expect_log(
        "refused peer=127.0.0.1 request=POST /heartbeats: .* `operate` for 1 of the instances that it names"
    ):
        assert (await api("POST", "/heartbeats", body, **tokens.owner)).json == {"renewed": 1, "unknown": ["u2", "u3"]}
        assert (await api("POST", "/heartbeats", body, **tokens.other)).json == {"renewed": 1, "unknown": ["u1", "u3"]}
    assert access.refused["forbidden"] == 2
    assert (await api("POST", "/heartbeats", body, **tokens.operator)).json == {"renewed": 2, "unknown": ["u3"]}


async def test_a_registration_that_waits_for_the_store_is_refused_like_one_that_does_not(
    api: Api, tokens: Tokens, store: RecordingStore, access: Access, expect_log: ExpectLog
) -> None:
    await register(api, tokens.owner)
    bodies = set()
    for failure in (None, StoreUnavailable()):
        store.fail_with(failure)
        with expect_log("refused peer=127.0.0.1 request=POST /register"):
            answer = await api("POST", "/register", USERS, **tokens.other)
        assert answer.status == 403
        bodies.add(answer.body)
    store.fail_with(None)
    assert len(bodies) == 1
    assert access.refused["forbidden"] == 2


async def test_what_needs_no_token(api: Api, tokens: Tokens) -> None:
    assert tokens
    for path in ("/livez", "/readyz", "/openapi.json", "/", "/static/main.js"):
        assert (await api("GET", path)).status == 200
    assert (await api("OPTIONS", "/services")).status == 204
    assert (await api("GET", "/nothing")).status == 404


async def test_status_and_history_tell_of_tokens(api: Api, tokens: Tokens, expect_log: ExpectLog) -> None:
    await register(api, tokens.owner)
    for shown in ({}, tokens.reader):
        with expect_log("refused peer=127.0.0.1 request=POST /heartbeat/u1"):
            await api("POST", "/heartbeat/u1", **shown)

    status = (await api("GET", "/status", **tokens.reader)).json
    caller = {"name": "reader", "rights": ["read"], "services": ["users"]}
    assert status["access"] == {"tokens": 6, "unauthorized": 1, "forbidden": 1, "caller": caller}
    (story,) = (await api("GET", "/explain/u1", **tokens.reader)).json["instances"]
    assert [event["token"] for event in story["events"]] == ["owner"]
    assert "owner" not in (await api("GET", "/instances/u1", **tokens.owner)).json, "nobody else's business"


async def test_a_lease_is_shown_to_whoever_may_see_its_instance(api: Api, tokens: Tokens) -> None:
    await register(api, tokens.owner)

    for shown, count in [(tokens.reader, 1), (tokens.owner, 1), (tokens.blind, 0), (tokens.admin, 1)]:
        assert (await api("GET", "/leases?instance_id=u1", **shown)).json["count"] == count


async def test_status_tells_everyone_his_own_rights(api: Api, tokens: Tokens) -> None:
    rights = {
        name: (await api("GET", "/status", **shown)).json["access"]["caller"]
        for name, shown in tokens._asdict().items()
        if name != "owner"
    }

    assert rights["operator"] == {"name": "operator", "rights": ["read", "operate"], "services": ["users"]}
    assert rights["admin"] == {"name": "admin", "rights": ["read", "register", "operate", "admin"], "services": ["*"]}


async def test_without_an_auth_file_a_token_does_not_matter(api: Api) -> None:
    await register(api, {"Authorization": "Bearer x"})
    assert (await api("GET", "/services/users")).json["count"] == 1
    assert "access" not in (await api("GET", "/status")).json


async def test_what_an_id_was_elsewhere_is_not_told_to_who_may_not_read_that(api: Api, tokens: Tokens) -> None:
    await register(api, tokens.admin, service_name="media", base_url="http://secret")
    await api("POST", "/drain/u1", {"reason": "secret reason"}, **tokens.admin)
    await register(api, tokens.admin)

    told = await api("GET", "/explain/u1", **tokens.reader)
    (story,) = told.json["instances"]
    assert [event["event"] for event in story["events"]] == ["registered"]
    assert len((await api("GET", "/explain/u1", **tokens.admin)).json["instances"][0]["events"]) == 4


async def test_what_is_hidden_is_noted_all_the_same(
    api: Api, tokens: Tokens, access: Access, expect_log: ExpectLog
) -> None:
    await register(api, tokens.owner)
    with expect_log("refused peer=127.0.0.1 request=DELETE /deregister/u1: no instance"):
        assert (await api("DELETE", "/deregister/u1", **tokens.blind)).status == 404
    assert (await api("DELETE", "/deregister/u2", **tokens.blind)).status == 404
    with expect_log("refused peer=127.0.0.1 request=GET /services: this registry does not know that it is called"):
        await api("GET", "/services", Host="evil.example")
    assert access.refused["forbidden"] == 2
    with expect_log("refused peer=127.0.0.1 request=GET /services/x*: "):
        await api("GET", f"/services/{'x' * 5000}")


async def test_who_waits_or_watches_has_no_more_rights_than_he_has_by_then(
    api: Api, tokens: Tokens, access: Access, registry: Registry, broadcast: Broadcast, expect_log: ExpectLog
) -> None:
    await register(api, tokens.owner)
    index = registry.index("users")
    waiting = asyncio.ensure_future(api("GET", f"/services/users?index={index}&wait=1m", **tokens.reader))
    watching = asyncio.ensure_future(api("GET", "/watch?service=users", **tokens.reader))
    while registry.tally().watchers < 2:
        await asyncio.sleep(0)
    access.take(Callers({}, {}, EVERYONE))
    broadcast.end_all()
    assert (await watching).body.count(b"event: ") == 1, "it has ended"
    with expect_log("refused peer=127.0.0.1 request=GET /services/users: this token is not known"):
        await api("POST", "/register", USERS)
        assert (await waiting).status == 401


async def test_a_refusal_for_asking_too_often_does_not_tell_what_there_is(
    api: Api, tokens: Tokens, overload: Overload, expect_log: ExpectLog
) -> None:
    await register(api, tokens.owner)
    overload.rates._clock = lambda: 100.0
    overload.rates.most = 1
    overload.rates._buckets = {"127.0.0.1": (0.0, 100.0)}
    assert (await api("POST", "/heartbeat/u1", **tokens.owner)).status == 200
    with expect_log("more than 1 requests a second"):
        for shown in ({}, tokens.other, tokens.blind, {"Authorization": "Bearer rgd_x"}):
            for instance_id in ("u1", "nobody"):
                assert (await api("POST", f"/heartbeat/{instance_id}", **shown)).status == 429


async def test_who_shows_no_token_where_anyone_may_something_is_asked_for_one_when_it_is_not_enough(
    api: Api, access: Access, expect_log: ExpectLog
) -> None:
    access.take(Callers({}, {}, Caller("", ["read"], ["users"])))
    assert (await api.get("/services/users")).status == 200
    for method, path, body in [
        ("POST", "/register", USERS),
        ("GET", "/services/media", None),
        ("GET", "/watch", None),
    ]:
        with expect_log("refused"):
            answer = await api(method, path, body)
        detail = refused(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "needs a token: send it as Authorization: Bearer TOKEN" in detail
