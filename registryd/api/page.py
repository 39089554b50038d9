"""The dashboard at `/`: files as they are in `static/`, for browsers. They hold no data, so nobody needs a right to get
them; what the page then asks for is up to the calls that it makes.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from registryd.api.base import ANSWERED, Handler, call
from registryd.api.context import Context
from registryd.api.problems import UnknownPath

FOLDER = Path(__file__).parent.parent / "static"
INDEX = "index.html"

#: Content-Type by the end of a file's name.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

#: What the page may do: show what comes from here, and ask here. Nothing in it is code but its own files; no HTML is
#: ever made of text (trusted types); no other site gets to show it, or to hold a window of it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-cache",
}


class File(NamedTuple):
    """A file of the page, as it is sent."""

    content: bytes
    media_type: str
    etag: str


@functools.cache
def files() -> dict[str, File]:
    """All files of the page by name. They are read once: what is installed over them belongs to the next registryd."""
    return {path.name: _read(path) for path in FOLDER.iterdir() if path.suffix in TYPES}


def _read(path: Path) -> File:
    content = path.read_bytes()
    return File(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


class PageHandler(Handler):
    """`GET /` and `GET /static/{name}`"""

    def prepare(self) -> None:
        # Under the name of another site, that site could read later what was typed here: a token.
        self._hosts.check(self.request.method or "", self.request.headers.get("Host"), None)

    @call()
    def get(self, name: str = INDEX) -> object:
        """Sends a file of the page."""
        file = files().get(name)
        if file is None:
            raise UnknownPath("there is no such file of the page, which is at /")
        self._etag = file.etag
        self.set_header("Content-Type", file.media_type)
        for header, value in HEADERS.items():
            self.set_header(header, value)
        self.write(file.content)
        return ANSWERED

    head = get


def routes(context: Context) -> list[tuple[str, type[Handler], dict[str, Any]]]:
    """The paths of the page, for an Application."""
    files()  # what cannot be read stops the start
    given = {"context": context}
    return [(r"/", PageHandler, given), (r"/static/([^/]+)/?", PageHandler, given)]
