"""TLS of a real daemon, under both HTTP servers: certificates, those of clients, and a change of them while it runs."""

import contextlib
import http.client
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from process import DEADLINE, Process, RunningDaemon

pytestmark = pytest.mark.e2e

KINDS = ["front", "tornado"]


class Site:
    """An authority, the files that the daemon is given, and clients of it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self._stack = stack
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        self.renew()

    def renew(self, authority: trustme.CA | None = None) -> None:
        """Gives the daemon another certificate."""
        pair = (authority or self.authority).issue_cert("127.0.0.1", "localhost")
        pair.private_key_and_cert_chain_pem.write_to_path(self.folder / "cert.pem")

    def start(self, kind: str, *args: str) -> RunningDaemon:
        flags = ("--http", kind, "--tls-cert", str(self.folder / "cert.pem"), *args)
        return self._stack.enter_context(RunningDaemon(self.folder, *flags))

    def context(self, pair: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """What a client speaks with, who may have a certificate."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if pair is not None:
            pair.configure_cert(context)
        return context

    def connect(self, daemon: RunningDaemon, context: ssl.SSLContext) -> http.client.HTTPSConnection:
        parts = urlsplit(daemon.url)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=DEADLINE, context=context)
        self._stack.callback(connection.close)
        connection.connect()
        return connection


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def ask(connection: http.client.HTTPConnection, path: str = "/livez", method: str = "GET", **headers: str) -> int:
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def serial(connection: http.client.HTTPSConnection) -> object:
    sock = connection.sock
    assert isinstance(sock, ssl.SSLSocket)
    certificate = sock.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_speaks_tls_and_nothing_else(kind: str, site: Site) -> None:
    daemon = site.start(kind)
    assert daemon.url.startswith("https://127.0.0.1:")
    connection = site.connect(daemon, site.context())
    for path in ("/livez", "/services/users", "/services/users", "/status"):
        assert ask(connection, path) == 200
    assert ask(connection, "/register", "POST", **{"Content-Length": "0"}) == 400

    with daemon.connect() as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.makefile("rb").read()
    old = ["openssl", "s_client", "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0", "-connect", urlsplit(daemon.url).netloc]
    assert subprocess.run(old, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 1
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert not [line for line in daemon.events if "ERROR" in line]


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_outlives_its_certificate(kind: str, site: Site) -> None:
    daemon = site.start(kind)
    before = site.connect(daemon, site.context())
    assert ask(before) == 200
    site.renew()
    daemon.signal(signal.SIGHUP)
    daemon.wait_for_line("INFO reloaded: ")
    after = site.connect(daemon, site.context())

    assert ask(before) == ask(after) == 200
    assert serial(before) != serial(after)

    (site.folder / "cert.pem").write_text("no PEM")
    with Process([sys.executable, "-m", "registryd", "--reload", str(daemon.popen.pid)]) as reload:
        assert reload.wait() == 1
    assert "reload refused, nothing has changed: cannot use the certificate and key in " in reload.output
    again = site.connect(daemon, site.context())
    assert serial(again) == serial(after)
    assert ask(before) == ask(after) == ask(again) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_shows_a_certificate_that_stands_for_a_token(kind: str, site: Site) -> None:
    auth = site.folder / "auth.toml"
    certificate = site.authority.issue_cert(common_name="users-svc")
    auth.write_text(f'[tokens.users]\nsubject = "{subject(certificate)}"\nallow = ["register", "read"]\n')
    daemon = site.start(kind, "--tls-client-ca", str(site.folder / "ca.pem"), "--auth-file", str(auth))
    for context in (site.context(), site.context(trustme.CA().issue_cert(common_name="users-svc"))):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
            ask(site.connect(daemon, context))

    users = site.connect(daemon, site.context(certificate))
    other = site.connect(daemon, site.context(site.authority.issue_cert(common_name="other")))
    users.request("POST", "/register", b'{"service_name": "users", "base_url": "http://h", "instance_id": "u1"}')
    assert users.getresponse().read().startswith(b'{"instance_id":"u1"')
    for path in ("/services/users", "/services/users", "/services/users?limit=1", "/status"):
        assert ask(users, path) == 200
        assert ask(other, path) == 401
        assert ask(users, path, Authorization="Bearer rgd_x") == 401, "who shows a token is who the token says"
    assert ask(users, "/heartbeat/u1", "POST") == 200
    assert ask(users, "/drain/u1", "POST") == 403
    daemon.wait_for_line("refused peer=127.0.0.1 request=GET /services/users: the certificate of 'CN=other,OU=")


def subject(certificate: trustme.LeafCert) -> str:
    """As whoever writes an auth file gets it."""
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253"],
        input=certificate.cert_chain_pems[0].bytes(), capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    return shown.strip().removeprefix("subject=")


def test_tls_that_cannot_be_had_stops_the_start(site: Site) -> None:
    for args, said in [
        (
            ["--tls-cert", str(site.folder / "no")],
            f"cannot use the certificate and key in {site.folder}/no: No such file",
        ),
        (["--tls-key", "x"], "--tls-key and --tls-client-ca are for TLS, which needs --tls-cert"),
    ]:
        with Process([sys.executable, "-m", "registryd", "--port", "0", *args]) as process:
            assert process.wait() == 2
        (line,) = process.lines
        assert line.startswith(f"registryd: {said}")


@pytest.mark.parametrize("kind", KINDS)
def test_who_never_shakes_hands_holds_nobody_up(kind: str, site: Site) -> None:
    daemon = site.start(kind)
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(daemon.connect())
        assert ask(site.connect(daemon, site.context())) == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert isinstance(daemon.popen.returncode, int)


def test_the_stream_of_a_watcher_comes_over_tls(site: Site) -> None:
    for kind in KINDS:
        daemon = site.start(kind)
        connection = site.connect(daemon, site.context())
        connection.request("GET", "/watch")
        answer = connection.getresponse()
        assert answer.readline() == b"event: snapshot\n"
        assert isinstance(connection.sock, socket.socket | None)
