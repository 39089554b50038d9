"""What TLS is spoken with, and what a certificate says of who shows it."""

import asyncio
import socket
import ssl
import struct
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tornado.http1connection import HTTP1Connection
from tornado.iostream import SSLIOStream
from world import world

from registryd.api.base import subject_shown
from registryd.api.intake import IntakeServer
from registryd.tls import CannotUseTls, make_context, subject_of


def subject(*names: tuple[tuple[str, str], ...]) -> dict[str, object]:
    return {"subject": names}


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (None, ""),
        ({}, ""),
        (subject((("commonName", "users"),)), "CN=users"),
        (
            subject((("countryName", "DE"),), (("organizationName", "A, B"),), (("commonName", "u"),)),
            "CN=u,O=A\\, B,C=DE",
        ),
        (subject((("commonName", "u"), ("userId", "7"))), "UID=7+CN=u"),
        (subject((("commonName", 'a+b"c\\d<e>f;g'),)), 'CN=a\\+b\\"c\\\\d\\<e\\>f\\;g'),
        (subject((("commonName", "#1 "),)), "CN=\\#1\\ "),
        (subject((("serialNumber", "1"),)), "serialNumber=1"),
        (subject((("surname", "S"),), (("givenName", "G"),), (("streetAddress", "A"),)), "street=A,GN=G,SN=S"),
        (subject((("commonName", "Müller\n"),)), "CN=M\\C3\\BCller\\0A"),
    ],
)
def test_a_subject_is_as_openssl_prints_it(certificate: dict[str, object] | None, text: str) -> None:
    assert subject_of(certificate) == text


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a certificate and its key, apart and in one, an authority, and what is none of them."""
    authority, pair = trustme.CA(), trustme.CA().issue_cert("localhost")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    pair.private_key_pem.write_to_path(tmp_path / "key")
    pair.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both")
    authority.issue_cert("localhost").private_key_pem.write_to_path(tmp_path / "other")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    (tmp_path / "text").write_text("no PEM")
    key = load_pem_private_key(pair.private_key_pem.bytes(), None)
    (tmp_path / "encrypted").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    return tmp_path


def test_it_is_1_2_at_least_and_asks_for_certificates_only_where_it_should(files: Path) -> None:
    for cert, key in (("cert", "key"), ("both", "")):
        context = make_context(str(files / cert), key and str(files / key), "")
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_NONE
    context = make_context(str(files / "both"), "", str(files / "ca"))
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("cert", "key", "ca", "why"),
    [
        ("no", "key", "", "the certificate and key in .*: No such file or directory; set --tls-cert and --tls-key"),
        ("cert", "no", "", "the certificate and key in .*: No such file or directory; set --tls-cert and --tls-key"),
        ("cert", "other", "", "the key is not that of the certificate; set --tls-cert and --tls-key"),
        ("cert", "", "", "there is no PEM in it, or not both a certificate and a key"),
        ("text", "key", "", "there is no PEM in it"),
        ("cert", "text", "", "there is no PEM in it"),
        ("cert", "encrypted", "", "the key is encrypted, and nobody is there to give a password"),
        ("cert", "key", "no", "cannot use the authorities in .*: No such file or directory; set --tls-client-ca"),
        ("cert", "key", "text", "cannot use the authorities in .*; set --tls-client-ca"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(files: Path, cert: str, key: str, ca: str, why: str) -> None:
    with pytest.raises(CannotUseTls, match=why) as refused:
        make_context(*(name and str(files / name) for name in (cert, key, ca)))
    assert "\n" not in str(refused.value)


def test_a_client_that_has_gone_again_is_nobody_and_no_fault_of_ours(files: Path) -> None:
    context = make_context(str(files / "both"), "", "")

    async def story() -> None:
        async with world("tornado") as there:
            http = there.http
            assert isinstance(http, IntakeServer)
            http.take_tls(context)
            with socket.create_server(("127.0.0.1", 0)) as listening:
                client = socket.create_connection(listening.getsockname())
                client.sendall(b"x")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                connection, address = listening.accept()
                http.take(connection, address)
            assert len(http) == 0
            await asyncio.wait_for(http.empty(), 5)

    asyncio.run(story())


def test_a_connection_that_is_closed_shows_no_certificate(files: Path) -> None:
    async def story() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            stream = SSLIOStream(ours, ssl_options=make_context(str(files / "both"), "", ""))
            stream.close()
            assert subject_shown(HTTP1Connection(stream, is_client=False)) == ""

    asyncio.run(story())
