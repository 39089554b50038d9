"""What a page of another site can make a browser here do: change nothing, and read nothing."""

import socket

import pytest
from conftest import Api

from registryd.api.hosts import ForeignOrigin, Hosts, UnknownHost

OWN = [
    "localhost", "LOCALHOST:8006", "localhost.:8006", "users.localhost:80", "127.0.0.1:8006", "[::1]:8006", "[::1]",
    "10.0.0.5", "192.0.2.7:8006", socket.gethostname(), "registry.example:8006", "Registry.Example",
]  # fmt: skip
FOREIGN = [
    "", "evil.example", "evil.example:8006", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost",
    "evil.example@localhost", "localhost:8006:8006", "localhost:x", "[::1", "[evil]", "local host",
]  # fmt: skip
WRITES = [
    ("POST", "/register"), ("POST", "/heartbeat/u1"), ("POST", "/heartbeats"), ("DELETE", "/deregister/u1"),
    ("POST", "/drain/u1"), ("POST", "/maintenance/u1"), ("POST", "/resume/u1"),
]  # fmt: skip
USERS = {"service_name": "users", "base_url": "http://h", "instance_id": "u1"}


@pytest.mark.parametrize("host", OWN)
def test_own_names_and_addresses_are_known(host: str) -> None:
    Hosts(["registry.example"]).check("POST", host, None)


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_not_unless_any_is(host: str) -> None:
    with pytest.raises(UnknownHost, match="name it in --allow-hosts"):
        Hosts(["registry.example", ""]).check("GET", host, None)
    Hosts(["*"]).check("GET", host, None)


@pytest.mark.parametrize(
    ("host", "origin", "is_own"),
    [
        ("localhost:8006", "http://localhost:8006", True),
        ("localhost:8006", "http://LOCALHOST:8006", True),
        ("localhost:8006", "http://localhost:3000", False),
        ("10.0.0.5:8006", "http://10.0.0.5:8006", True),
        ("10.0.0.5:8006", "http://10.0.0.6:8006", False),
        ("localhost:8006", "https://registry.example", True),
        ("localhost:8006", "https://evil.example", False),
        ("localhost:8006", "https://registry.example.evil.example", False),
        ("localhost:8006", "null", False),
        ("localhost:8006", "", False),
        ("localhost:8006", "file://", False),
    ],
)
def test_only_own_pages_change_anything(host: str, origin: str, is_own: bool) -> None:
    hosts = Hosts(["registry.example"])
    hosts.check("GET", host, origin)
    for method in ("POST", "DELETE", "PUT", "PATCH"):
        if is_own:
            hosts.check(method, host, origin)
        else:
            with pytest.raises(ForeignOrigin, match="may not change anything here"):
                hosts.check(method, host, origin)


async def test_a_name_that_was_made_to_lead_here_is_not_answered(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    assert (await api("POST", "/register", USERS)).status == 200
    for _ in range(3):  # also when the header block is known
        for path in ("/services/users", "/services", "/instances/u1", "/status", "/watch"):
            answer = await api("GET", path, Host="evil.example:8006")
            assert answer.status == 421
            assert answer.json["code"] == "unknown_host"
        assert (await api("GET", "/services/users")).status == 200
        assert (await api("POST", "/heartbeat/u1", Host="evil.example")).status == 421
    assert (await api("GET", "/livez", Host="evil.example")).status == 200, "whoever looks after it need not know"
    assert all("refused peer=127.0.0.1 request=" in message for message in caplog.messages)
    caplog.clear()


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_a_page_of_another_site_changes_nothing(
    api: Api, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await api("POST", "/register", USERS)).status == 200
    before = (await api("GET", "/instances/u1")).body
    body = {"/register": USERS, "/heartbeats": {"instance_ids": ["u1"]}}.get(path)
    for _ in range(2):
        for origin in ("https://evil.example", "null"):
            answer = await api(method, path, body, Origin=origin)
            assert answer.status == 403
            assert answer.json["code"] == "foreign_origin"
    assert (await api("GET", "/instances/u1")).body == before
    assert all("refused peer=127.0.0.1 request=" in message for message in caplog.messages)
    assert len(caplog.messages) == 4
    caplog.clear()


async def test_no_page_of_another_site_may_read_what_it_gets(api: Api) -> None:
    for method in ("GET", "OPTIONS"):
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        answer = await api(method, "/services", **headers)
        assert answer.status in (200, 204)
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


async def test_no_answer_can_be_taken_for_a_page(api: Api) -> None:
    await api.register(metadata={"page": "<html><script>alert(1)</script>"})
    for path in (
        "/services/users",
        "/services/users?limit=1",
        "/status",
        "/livez",
        "/nowhere",
        "/services?x=%3Chtml%3E",
    ):
        answer = await api.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert "html" not in answer.headers["Content-Type"], path
