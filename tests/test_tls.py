"""What TLS is spoken with, and what a certificate says of who shows it."""

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

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
        (subject((("commonName", "u"), ("userId", "7"))), "CN=u+UID=7"),
        (subject((("commonName", 'a+b"c\\d<e>f;g'),)), 'CN=a\\+b\\"c\\\\d\\<e\\>f\\;g'),
        (subject((("commonName", "#1 "),)), "CN=\\#1\\ "),
        (subject((("serialNumber", "1"),)), "serialNumber=1"),
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
