"""The client against real daemons, in both shells."""

import signal
from pathlib import Path

import pytest
import trustme
from conftest import ExpectLog
from process import RunningDaemon, StartDaemon
from shells import Shell, until

from registryd.client.discovery import LocalCopy
from registryd.client.errors import RegistryUnreachable
from registryd.client.http import Client
from registryd.client.registries import Registries
from registryd.client.session import About

pytestmark = pytest.mark.e2e


def test_a_watch_tells_what_happens_until_the_registry_stops(daemon: RunningDaemon) -> None:
    watching = Client(Registries([daemon.url])).watch(["users"])
    snapshot = next(watching)
    assert (snapshot.kind, snapshot.data) == ("snapshot", {"instances": [], "count": 0})
    daemon.register(instance_id="u1")
    daemon.register("timelines", instance_id="t1")
    daemon.fetch("/deregister/u1", "DELETE")
    events = [next(watching), next(watching)]
    assert [(event.kind, event.data["instance_id"]) for event in events] == [
        ("registered", "u1"),
        ("deregistered", "u1"),
    ]

    again = Client(Registries([daemon.url])).watch(["users"], events[0].index)
    assert [next(again).kind, next(again)] == ["", events[1]]
    daemon.signal(signal.SIGTERM)
    assert list(watching) == []
    assert daemon.wait() == 0


def test_a_watch_of_a_registry_that_is_killed_or_silent_ends_with_an_error(daemon: RunningDaemon) -> None:
    watching = Client(Registries([daemon.url])).watch(silence=0.05)
    assert next(watching).kind == "snapshot"
    with pytest.raises(RegistryUnreachable, match=r"not a word for 0\.05 s"):
        next(watching)

    watching = Client(Registries([daemon.url])).watch()
    assert next(watching).kind == "snapshot"
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    with pytest.raises(RegistryUnreachable, match=f"no answer from the registry at {daemon.url}: "):
        next(watching)


def test_tls_with_an_authority_and_a_certificate_of_ones_own(start_daemon: StartDaemon, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    authority.issue_cert("users").private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "own")}
    daemon = start_daemon("--tls-cert", files["cert"], "--tls-client-ca", files["ca"])
    known = Registries([daemon.url], ca=files["ca"], cert=files["own"])

    assert Client(known).call("GET", "/services") == {"services": {}, "count": 0}
    assert next(Client(known).watch()).kind == "snapshot"
    with pytest.raises(RegistryUnreachable, match="certificate verify failed"):
        Client(Registries([daemon.url])).call("GET", "/services")
    with pytest.raises(RegistryUnreachable, match="no answer from the registry at https"):
        Client(Registries([daemon.url], ca=files["ca"])).call("GET", "/services")


def names(users: LocalCopy) -> set[str]:
    return {one.instance_id for one in users.instances}


def test_who_registers_is_found_and_who_leaves_or_is_drained_is_not(
    daemon: RunningDaemon, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_URL", daemon.url)
    about: About = {"ttl": 5, "metadata": {"a": "b"}, "tags": ["x"], "version": "1", "zone": "z", "weight": 3}
    with shell.discovery("users") as users, shell.registered("users", "http://h:1", **about) as first:
        until(lambda: names(users) == {first.instance_id})
        one = users.pick()
        assert (one.base_url, one.ttl, one.metadata, one.tags) == ("http://h:1", 5.0, {"a": "b"}, ("x",))
        assert (one.version, one.zone, one.weight, one.status) == ("1", "z", 3, "up")
        with shell.registered("users", "http://h:2") as second:
            until(lambda: names(users) == {first.instance_id, second.instance_id})
            daemon.fetch(f"/drain/{first.instance_id}", "POST")
            until(lambda: names(users) == {second.instance_id})
            daemon.fetch(f"/resume/{first.instance_id}", "POST")
            until(lambda: len(names(users)) == 2)
        until(lambda: names(users) == {first.instance_id})
        assert users.age < 20
    assert daemon.fetch("/services").json["count"] == 0
    until(lambda: daemon.fetch("/status").json["watchers"] == 0)


def test_who_was_forgotten_is_registered_again_under_the_same_id(
    daemon: RunningDaemon, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_URL", daemon.url)
    with shell.registered("users", "http://h:1", ttl=1) as a, shell.registered("users", "http://h:2", ttl=1) as b:
        daemon.fetch(f"/deregister/{a.instance_id}", "DELETE")
        assert daemon.fetch("/services/users?min=2&wait=10s").status == 200
        assert set(daemon.listed()) == {a.instance_id, b.instance_id}


def test_tls_in_both_shells(
    start_daemon: StartDaemon, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log: ExpectLog
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    daemon = start_daemon("--tls-cert", str(tmp_path / "cert.pem"))
    monkeypatch.setenv("REGISTRY_URL", daemon.url)
    with expect_log("certificate verify failed"), shell.discovery("users") as users:
        assert not users.is_known
    monkeypatch.setenv("REGISTRY_CA", str(tmp_path / "ca.pem"))
    with shell.registered("users", "https://h:1") as registration, shell.discovery("users") as users:
        assert names(users) == {registration.instance_id}
