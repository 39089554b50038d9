"""What both shells must do, each against something that answers as a test has it answer."""

import json
import socket
import threading
from pathlib import Path

import pytest
from conftest import ExpectLog
from scripted import Answer, Asked, StartScripted, answered, problem
from shells import Shell, until

from registryd.client.errors import (
    BadSetting,
    NoInstances,
    NotARegistry,
    RegistrationRefused,
    RegistryUnreachable,
    TokenRefused,
)

NOBODY = "http://127.0.0.1:1"


class Registry:
    """A registry that says what it is asked, with leases of a second; `answers` come before that, by path."""

    def __init__(self, start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.scripted = start_scripted(self._answer)
        self.url = self.scripted.url
        monkeypatch.setenv("REGISTRY_URL", self.url)

    def _answer(self, asked: Asked) -> Answer:
        call = asked.path.partition("?")[0].split("/")[1]
        if self.answers.get(call):
            return self.answers[call].pop(0)
        body = json.loads(asked.body or b"{}")
        if call == "heartbeats":
            return answered({"renewed": len(body["instance_ids"]), "unknown": []})
        if call == "watch":
            return stream()
        return answered({"ttl": 1.0, "generation": 1} | body)

    def paths(self, method: str) -> list[str]:
        return [asked.path for asked in self.scripted.asked if asked.method == method]


def stream(*names: str, index: int = 7, ends: bool = False) -> Answer:
    """A snapshot of these, and then silence, or the end."""
    instances = [{"instance_id": name, "service_name": "users", "base_url": f"http://{name}:1"} for name in names]
    said = f"event: snapshot\nid: {index}\ndata: {json.dumps({'instances': instances})}\n\n".encode()
    return 200, "text/event-stream", said if ends else [said]


@pytest.fixture
def registry(start_scripted: StartScripted, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr("registryd.client.discovery.FIRST_RETRY", 0.05)
    return Registry(start_scripted, monkeypatch)


def test_several_share_one_heartbeat(shell: Shell, registry: Registry) -> None:
    with (
        shell.registered("users", "http://h:1") as a,
        shell.registered("users", "http://h:2") as b,
        shell.registered("timelines", "http://h:3") as c,
    ):
        ids = {one.instance_id for one in (a, b, c)}
        registry.scripted.wait_for(
            lambda asked: asked.path == "/heartbeats" and set(json.loads(asked.body)["instance_ids"]) == ids
        )
        assert a.is_registered

    assert not [path for path in registry.paths("POST") if path.startswith("/heartbeat/")]
    assert {path.removesuffix("?generation=1") for path in registry.paths("DELETE")} == {
        f"/deregister/{i}" for i in ids
    }


def test_one_that_the_shared_heartbeat_does_not_know_registers_again(shell: Shell, registry: Registry) -> None:
    with shell.registered("users", "http://h:1") as a, shell.registered("users", "http://h:2"):
        registry.answers["heartbeats"] = [answered({"renewed": 1, "unknown": [a.instance_id]})]
        registry.scripted.wait_for(lambda asked: asked.path == "/heartbeats")
        until(lambda: registry.paths("POST").count("/register") == 3)

    again = [json.loads(asked.body) for asked in registry.scripted.asked if asked.path == "/register"][2]
    assert (again["instance_id"], again["base_url"]) == (a.instance_id, "http://h:1")


def test_who_is_taken_over_says_no_more(shell: Shell, registry: Registry, expect_log: ExpectLog) -> None:
    registry.answers["heartbeat"] = [problem(409, "stale_generation")]
    registry.answers["instances"] = [answered({"ttl": 1.0, "service_name": "users", "base_url": "http://other:1"})]
    with (
        expect_log("another process has taken over instance=users-1: no more heartbeats"),
        shell.registered("users", "http://h:1", instance_id="users-1") as registration,
    ):
        until(lambda: not registration.is_registered)

    assert registry.paths("DELETE") == []


@pytest.mark.parametrize(("status", "kind"), [(400, RegistrationRefused), (401, TokenRefused), (403, TokenRefused)])
def test_a_registration_that_is_refused_is_raised(
    shell: Shell, registry: Registry, status: int, kind: type[Exception]
) -> None:
    registry.answers["register"] = [problem(status, "some_code", "do this")]
    with (
        pytest.raises(kind, match=r"^the registry refuses this registration: do this$") as caught,
        shell.registered("users", "http://h:1"),
    ):
        pass

    assert isinstance(caught.value, RegistrationRefused)
    assert registry.paths("DELETE") == []


def test_a_setting_that_cannot_be_used_is_raised(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGISTRY_URL", "https://127.0.0.1:1")
    monkeypatch.setenv("REGISTRY_CA", str(tmp_path / "none"))
    with pytest.raises(BadSetting, match=r"; set REGISTRY_CA$"), shell.registered("users", "http://h:1"):
        pass
    with pytest.raises(BadSetting, match=r"; set REGISTRY_CA$"), shell.discovery("users"):
        pass


@pytest.mark.parametrize("token", ["rgd_a\nrgd_b", "rgd_\u20ac"])
def test_a_token_that_cannot_be_sent_is_said_and_not_shown(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", token)
    for begin in (lambda: shell.registered("users", "http://h:1"), lambda: shell.discovery("users")):
        with pytest.raises(BadSetting, match=r"^the token is none: [^_]*; set REGISTRY_TOKEN") as caught, begin():
            pass
        assert "rgd" not in str(caught.value)


def test_a_block_that_fails_is_deregistered_as_well(shell: Shell, registry: Registry) -> None:
    with pytest.raises(RuntimeError), shell.registered("users", "http://h:1"):
        raise RuntimeError
    assert len(registry.paths("DELETE")) == 1


def test_the_next_registry_is_taken_where_one_is_gone(
    shell: Shell, registry: Registry, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    monkeypatch.setenv("REGISTRY_URL", f"{NOBODY},{registry.url}")
    registry.answers["watch"] = [stream("a")]
    text = f"no answer from the registry at {NOBODY}: .*; keeping what is known of service=users"
    with expect_log(text), shell.discovery("users") as users:
        assert users.pick().instance_id == "a"
    with (
        expect_log(f"no answer from the registry at {NOBODY}"),
        shell.registered("users", "http://h:1") as registration,
    ):
        until(lambda: registration.is_registered)


def test_a_watch_shows_the_token_and_a_refusal_is_raised(
    shell: Shell, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", "rgd_x")
    registry.answers["watch"] = [problem(403, "forbidden", "use a token that has")]
    with pytest.raises(TokenRefused, match=r"^use a token that has$"), shell.discovery("users"):
        pass

    asked = registry.scripted.asked[0]
    assert (asked.path, asked.headers["authorization"]) == ("/watch?service=users", "Bearer rgd_x")
    assert asked.headers["host"] == registry.url.removeprefix("http://")


def test_what_is_known_is_kept_while_the_registry_recovers_and_the_watch_goes_on(
    shell: Shell, registry: Registry, expect_log: ExpectLog
) -> None:
    registry.answers["watch"] = [
        stream("a", ends=True),
        problem(503, "recovering", "keep what you know"),
        stream("a", "b", index=8),
    ]
    with expect_log("keep what you know; keeping what is known of service=users"), shell.discovery("users") as users:
        until(lambda: len(users.instances) == 2)
        assert users.trouble is None

    assert [asked.headers.get("last-event-id") for asked in registry.scripted.asked] == [None, "7", "7"]


def test_after_its_end_a_copy_is_as_it_was_and_grows_old(shell: Shell, registry: Registry) -> None:
    registry.answers["watch"] = [stream("a")]
    with shell.discovery("users") as users:
        assert users.is_open
        age = users.age
    assert not users.is_open
    assert users.pick().instance_id == "a"
    until(lambda: users.age > age)


def test_a_registry_that_has_fallen_silent_is_asked_again(
    shell: Shell, registry: Registry, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    monkeypatch.setattr("registryd.client.aio.SILENCE", 0.1)
    monkeypatch.setattr("registryd.client.blocking.SILENCE", 0.1)
    monkeypatch.setattr("registryd.client.aio.LOOK_UP", 0.05)
    monkeypatch.setattr("registryd.client.http.LOOK_UP", 0.05)
    registry.answers["watch"] = [stream("a")]
    text = rf"no answer from the registry at {registry.url}: not a word for 0\.1 s"
    with expect_log(text), shell.discovery("users") as users:
        registry.scripted.wait_for(lambda asked: asked.headers.get("last-event-id") == "7")
        assert users.instances[0].instance_id == "a"


def test_one_that_takes_connections_and_says_nothing_holds_nobody_up(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    for name in ("aio.TIMEOUT", "http.TIMEOUT", "aio.LOOK_UP", "http.LOOK_UP"):
        monkeypatch.setattr(f"registryd.client.{name}", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("REGISTRY_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with (
            expect_log(r"no answer from the registry at .*: not a word for 0\.05 s"),
            shell.discovery("users") as users,
        ):
            assert not users.is_known


@pytest.mark.parametrize(
    "said",
    [
        (200, "text/html", b"<h1>Welcome</h1>"),
        (404, "text/html", b"<h1>Not Found</h1>"),
        (200, "text/event-stream", b"data: {\n\n"),
        (200, "text/html", b"x" * 200_000),
    ],
    ids=["html", "404", "no json", "long"],
)
def test_what_is_no_registry_is_said_and_waited_for(
    shell: Shell, registry: Registry, expect_log: ExpectLog, said: Answer
) -> None:
    registry.answers["watch"] = [said, stream("a")]
    text = f"what answers at {registry.url} .*; set REGISTRY_URL; keeping what is known of service=users"
    with expect_log(text), shell.discovery("users") as users:
        until(lambda: users.is_known)
        assert users.pick().instance_id == "a"


def test_no_registry_at_the_start_is_waited_for(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    monkeypatch.setenv("REGISTRY_URL", f"{NOBODY},localhost:8006")
    with expect_log(f"no answer from the registry at {NOBODY}"), shell.discovery("users") as users:
        assert isinstance(users.trouble, RegistryUnreachable)
        assert not isinstance(users.trouble, NotARegistry)
        with pytest.raises(
            NoInstances, match="nothing is known of 'users' yet, as no registry has told: no answer from"
        ):
            users.pick()


def test_any_thread_may_look_up_while_events_come(shell: Shell, registry: Registry) -> None:
    names = [f"users-{n}" for n in range(20)]
    events = b"".join(
        f"event: {kind}\nid: {n}\ndata: ".encode()
        + json.dumps({"instance_id": names[n % 20], "service_name": "users", "base_url": "http://h:1"}).encode()
        + b"\n\n"
        for n in range(8, 2000)
        for kind in ("deregistered", "registered")
    )
    status, kind, said = stream(*names)
    registry.answers["watch"] = [(status, kind, [bytes(said[0]) if isinstance(said, list) else said, events])]
    with shell.discovery("users", policy="least_pending") as users:
        is_over, failures = threading.Event(), []

        def look_up() -> None:
            while not is_over.is_set():
                try:
                    with users.acquire(), users.acquire("key"):
                        users.pick()
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=look_up) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: users.resume_from(registry.url) == 1999)
        is_over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(users.instances) == 20
