"""The client against real daemons, in both shells."""

import signal
from pathlib import Path

import pytest
import trustme
from process import RunningDaemon, StartDaemon

from registryd.client.errors import RegistryUnreachable
from registryd.client.http import Client
from registryd.client.registries import Registries

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
