"""TLS: what a server needs to speak it, and who a client's certificate says that he is."""

import ssl
from collections.abc import Mapping
from typing import Any

#: Short names of what is in a subject, by those that OpenSSL gives (RFC 4514, section 3, and what openssl prints).
_SHORT = {
    "commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C",
    "stateOrProvinceName": "ST", "localityName": "L", "domainComponent": "DC", "userId": "UID", "surname": "SN",
    "givenName": "GN", "streetAddress": "street",
}  # fmt: skip
_SPECIAL = str.maketrans({char: f"\\{char}" for char in ',+"\\<>;'})


class CannotUseTls(Exception):
    """The certificates cannot be used; the text is one line that says why and what to do."""


def make_context(cert: str, key: str, client_ca: str) -> ssl.SSLContext:
    """For a server with this certificate chain and key (files in PEM; the key may be in with the chain), TLS 1.2 at
    least; with `client_ca` for clients alone that have a certificate of these authorities. Raises CannotUseTls."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key or None, _no_password)
    except (OSError, ValueError) as error:
        files = f"{cert} and {key}" if key else cert
        raise CannotUseTls(
            f"cannot use the certificate and key in {files}: {_why(error)}; set --tls-cert and --tls-key"
        ) from None
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise CannotUseTls(
                f"cannot use the authorities in {client_ca}: {_why(error)}; set --tls-client-ca"
            ) from None
    return context


def subject_of(certificate: Mapping[str, Any] | None) -> str:
    """The subject of a certificate as `openssl x509 -noout -subject -nameopt RFC2253` prints it (`CN=users,O=Site`, the
    most particular part first); empty where there is none. `certificate` is as from SSLSocket.getpeercert."""
    names = (certificate or {}).get("subject", ())
    parts = ("+".join(f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in part[::-1]) for part in names)
    return ",".join(reversed(list(parts)))


def _escaped(value: str) -> str:
    escaped = "".join(map(_printable, value.translate(_SPECIAL)))
    if escaped.startswith(("#", " ")):
        escaped = "\\" + escaped
    return escaped[:-1] + "\\ " if escaped.endswith(" ") and len(value) > 1 else escaped


def _printable(char: str) -> str:
    return char if " " <= char <= "~" else "".join(f"\\{byte:02X}" for byte in char.encode())


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to give a password")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        no_pem = "there is no PEM in it, or not both a certificate and a key"
        known = {"KEY_VALUES_MISMATCH": "the key is not that of the certificate", "NO_START_LINE": no_pem}
        return known.get(error.reason or "", error.reason or no_pem)
    return getattr(error, "strerror", None) or str(error)
