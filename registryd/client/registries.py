"""Where the registries are, which of them is spoken to, and what they are shown: as the environment says."""

import base64
import re
import ssl
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Self
from urllib.parse import unquote, urlsplit

from registryd.client.errors import BadSetting

DEFAULT_URL = "http://localhost:8006"


class Registries:
    """Registries that are tried in turn: one is spoken to until it fails. Without `ca` (a file in PEM) the system's
    authorities are trusted; `cert` and `key` are what we show, where the registry wants a certificate (the key may be
    in with the certificate). Raises BadSetting for a token that cannot be one."""

    def __init__(
        self, urls: Sequence[str] = (DEFAULT_URL,), token: str = "", *, ca: str = "", cert: str = "", key: str = ""
    ) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._files = ca, cert, key
        self._token = sendable(token)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """Those of an environment: REGISTRY_URL, REGISTRY_TOKEN, REGISTRY_CA, REGISTRY_CERT, REGISTRY_KEY. Raises
        BadSetting."""
        token, ca, cert, key = (environ.get(f"REGISTRY_{name}", "").strip() for name in ("TOKEN", "CA", "CERT", "KEY"))
        return cls(registry_urls(environ), token, ca=ca, cert=cert, key=key)

    @property
    def url(self) -> str:
        """The one that is spoken to."""
        return self._urls[0]

    def __len__(self) -> int:
        return len(self._urls)

    def leave(self, url: str) -> None:
        """Goes on to the next one, unless someone has left this one already."""
        if url == self._urls[0]:
            self._urls.append(self._urls.pop(0))

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal where all is as in another."""
        return (tuple(sorted(self._urls)), self._token, self._files)

    def headers_for(self, url: str) -> dict[str, str]:
        """What a request says of who we are: what a URL has of it comes before the token."""
        user, has_user, _ = urlsplit(url).netloc.rpartition("@")
        if has_user:
            return {"Authorization": f"Basic {base64.b64encode(unquote(user).encode()).decode()}"}
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """What TLS is spoken with. Raises BadSetting."""
        ca, cert, key = self._files
        try:
            context = ssl.create_default_context(cafile=ca or None)
        except (OSError, ValueError) as error:
            raise BadSetting(f"cannot use the authorities in {ca}: {_why(error)}; set REGISTRY_CA") from None
        if cert:
            try:
                context.load_cert_chain(cert, key or None)
            except (OSError, ValueError) as error:
                raise BadSetting(
                    f"cannot use the certificate and key in {cert}: {_why(error)}; set REGISTRY_CERT and REGISTRY_KEY"
                ) from None
        return context


def registry_urls(environ: Mapping[str, str]) -> list[str]:
    """The registries that REGISTRY_URL names; the default where it names none."""
    urls = [url.strip() for url in environ.get("REGISTRY_URL", "").split(",")]
    return [url for url in urls if url] or [DEFAULT_URL]


def sendable(token: str) -> str:
    """The token, if a header can have it. Raises BadSetting, which does not show it."""
    if not (token.isascii() and token.isprintable()):
        raise BadSetting("the token is none: it is to be one line of ASCII; set REGISTRY_TOKEN, or --token-file")
    return token


def without_secret(url: str) -> str:
    """A URL as it may be shown: without user and password."""
    return re.sub(r"//[^/?#]*@", "//", url)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
