"""Every refusal as RFC 9457 problem details, and the one table from exceptions to statuses."""

import http
from typing import NamedTuple

from msgspec import UNSET
from tornado.httputil import HTTPInputError
from tornado.web import HTTPError

from registryd.api import render
from registryd.api.hosts import ForeignOrigin, UnknownHost
from registryd.api.shapes import ProblemShape
from registryd.core.errors import (
    ECHO,
    Forbidden,
    InvalidInput,
    LimitReached,
    Recovering,
    RegistrydError,
    StaleGeneration,
    StoreUnavailable,
    Unauthorized,
    UnknownInstance,
)
from registryd.core.limits import flag_of
from registryd.overload import MOST_HEADERS

CONTENT_TYPE = "application/problem+json"


class TooLarge(RegistrydError):
    """A part of the request is over its limit."""

    code = "too_large"

    def __init__(self, part: str, limit: str, most: int) -> None:
        super().__init__(f"the {part} is over the limit of {most} bytes ({flag_of(limit)}); send a smaller one")


class BodyTooLarge(TooLarge):
    """The body is over its limit."""

    code = "body_too_large"


class HeadersTooLarge(TooLarge):
    """The header block is over its limit."""

    code = "headers_too_large"


class TooManyHeaders(RegistrydError):
    """There are more headers than anyone needs."""

    code = "headers_too_large"

    def __init__(self) -> None:
        super().__init__(f"the header block has more than {MOST_HEADERS} headers; send fewer")


class UrlTooLong(TooLarge):
    """The URL is over its limit."""

    code = "url_too_long"


class TooManyRequests(RegistrydError):
    """Whoever asks has asked too often."""

    code = "too_many_requests"

    def __init__(self, most: int) -> None:
        super().__init__(
            f"your address makes more than {most} requests a second ({flag_of('requests_per_address')}); ask less often"
        )


class UnsupportedEncoding(RegistrydError):
    """The body is compressed. As none is ever decompressed, a small one cannot become a large one here."""

    code = "unsupported_encoding"

    def __init__(self, coding: str) -> None:
        super().__init__(f"the body is in the encoding {coding[:ECHO]!r}, and none is read here; send it as it is")


class UnknownPath(RegistrydError):
    """There is nothing at this path."""

    code = "unknown_path"


class TooFew(RegistrydError):
    """A reader has waited for more instances than have come."""

    code = "too_few_instances"

    def __init__(self, wanted: int, there: int) -> None:
        super().__init__(f"there are {there} instances that fit, and not {wanted} yet; ask again, or look at /explain")


class NotReady(RegistrydError):
    """Something that serving needs is not there."""

    code = "not_ready"

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"not ready: {', '.join(names)}; ask again later")


#: The status of each exception, looked up along its classes. What is not in here is our own fault: 500.
STATUSES: dict[type[BaseException], int] = {
    InvalidInput: 400,
    HTTPInputError: 400,
    Unauthorized: 401,
    Forbidden: 403,
    ForeignOrigin: 403,
    UnknownInstance: 404,
    UnknownPath: 404,
    TooFew: 408,
    StaleGeneration: 409,
    BodyTooLarge: 413,
    UrlTooLong: 414,
    UnsupportedEncoding: 415,
    UnknownHost: 421,
    LimitReached: 429,
    TooManyRequests: 429,
    HeadersTooLarge: 431,
    TooManyHeaders: 431,
    NotReady: 503,
    Recovering: 503,
    StoreUnavailable: 503,
}


#: What each status that a call may refuse with is called.
PHRASES = {status: http.HTTPStatus(status).phrase for status in {*STATUSES.values(), 405, 500}}


class Problem(NamedTuple):
    """An error as it goes out."""

    status: int
    code: str
    detail: str
    field: str | None = None
    #: How one may show who one is (WWW-Authenticate), where that is what is wrong.
    challenge: str | None = None

    @property
    def title(self) -> str:
        """What its status is called."""
        return http.HTTPStatus(self.status).phrase

    @property
    def headers(self) -> dict[str, str]:
        """What its answer says beside what every answer says."""
        if self.challenge is not None:
            return {"WWW-Authenticate": self.challenge}
        if self.status == 415:  # RFC 9110, 15.5.16: which codings would have been taken
            return {"Accept-Encoding": "identity"}
        return {"Retry-After": "1"} if self.status in (429, 503) else {}

    def render(self) -> bytes:
        """The body, `application/problem+json`."""
        field = UNSET if self.field is None else self.field
        return render.json_bytes(
            ProblemShape(title=self.title, status=self.status, detail=self.detail, code=self.code, field=field)
        )


def status_of(error: BaseException) -> int:
    """The status that an exception is answered with."""
    if isinstance(error, HTTPError):  # Tornado's own: 400 for a path that is not UTF-8, 405
        return error.status_code
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def problem_of(error: BaseException) -> Problem:
    """What a client is told about an exception: of our own faults, only that they are ours."""
    status = status_of(error)
    if isinstance(error, Unauthorized):
        challenge = 'Bearer realm="registryd"' + (', error="invalid_token"' if error.is_bad else "")
        return Problem(status, error.code, str(error), challenge=challenge)
    if isinstance(error, RegistrydError):
        return Problem(status, error.code, str(error), getattr(error, "field", None))
    if isinstance(error, HTTPInputError):
        return Problem(status, "bad_request", f"this is not a good HTTP request: {error}")
    if status == 405:
        return Problem(status, "method_not_allowed", "this path has no such method; those in Allow are there")
    if status < 500:
        return Problem(status, "bad_request", "the request cannot be read; check that the path is UTF-8")
    return Problem(500, "internal_error", "registryd has failed; its log says why, and the state is as before")
