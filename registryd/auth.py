"""The auth file: who may do what, by the tokens that they show. It holds hashes of the tokens, not the tokens.

A token is 256 random bits, so one round of SHA-256 hides it as well as any slow hash would: there is nothing to guess.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from registryd.core.access import EVERYONE, RIGHTS, Caller
from registryd.core.errors import ECHO, Unauthorized

#: What a token begins with, so that people and secret scanners know one.
PREFIX = "rgd_"

#: How much of a hash it is found by; all of it is compared then.
_KEY = 8
_UNKNOWN = (bytes(32), EVERYONE)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_PATTERN = re.compile(r"[A-Za-z0-9._*?-]{1,128}", re.ASCII)


class BadAuthFile(Exception):
    """The auth file cannot be used; the text is one line that says why and what to do."""


class _Rights(Struct, forbid_unknown_fields=True):
    allow: list[str]
    services: list[str] = msgspec.field(default_factory=lambda: ["*"])

    def caller(self, name: str) -> Caller:
        """Who has these rights. Raises ValueError where there is no such right or pattern."""
        if unknown := next((right for right in self.allow if right not in RIGHTS), None):
            raise ValueError(f"there is no right {unknown!r}; there are {', '.join(RIGHTS)}")
        if bad := next((pattern for pattern in self.services if not _PATTERN.fullmatch(pattern)), None):
            raise ValueError(f"{bad!r} is no pattern for names of services; it is made of A-Z a-z 0-9 . _ - and * ?")
        return Caller(name, frozenset(right for right in RIGHTS if right in self.allow), self.services)


class _Token(_Rights, forbid_unknown_fields=True, kw_only=True):
    hash: str = ""
    #: Of a client's certificate, which stands for the token.
    subject: str = ""


class Callers(NamedTuple):
    """Those who may ask."""

    #: Who shows which token, by the beginning of its hash, with all of it.
    known: dict[bytes, tuple[bytes, Caller]]
    #: Who shows which certificate, by its subject.
    subjects: dict[str, Caller]
    #: Who shows none; None where he may nothing.
    anyone: Caller | None


class Access:
    """Tells who asks, by the Authorization header of a request. Where nobody has said who may (None), everyone may do
    everything."""

    def __init__(self, callers: Callers | None = None) -> None:
        self.take(callers)
        #: How many requests were refused: `unauthorized` without a known token, `forbidden` for all other reasons.
        self.refused: Counter[str] = Counter()

    def take(self, callers: Callers | None) -> None:
        """Lets these in from now on."""
        #: Whether nobody has to show anything.
        self.is_open = callers is None
        self._known, self._subjects, self._anyone = callers or Callers({}, {}, None)

    def __len__(self) -> int:
        return len({*(caller for _, caller in self._known.values()), *self._subjects.values()})

    def caller(self, authorization: str | None, subject: str = "") -> Caller:
        """Who asks, with this header and a certificate of this subject, if he has shown one. Raises Unauthorized."""
        if self.is_open:
            return EVERYONE
        if authorization is None:
            if subject in self._subjects:
                return self._subjects[subject]
            if self._anyone is None and subject:
                raise Unauthorized(
                    f"the certificate of {subject[:ECHO]!r} stands for no token here, and no token was sent; ask who "
                    "runs the registry for one",
                    is_bad=True,
                )
            if self._anyone is None:
                raise Unauthorized("this registry needs a token: send it as Authorization: Bearer TOKEN", is_bad=False)
            return self._anyone
        scheme, _, token = authorization.partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "replace")).digest()
        known, caller = self._known.get(digest[:_KEY], _UNKNOWN)
        if scheme.lower() != "bearer" or not hmac.compare_digest(digest, known):
            raise Unauthorized(
                "this token is not known here (or has been taken back); ask who runs the registry for one, and send it "
                "as Authorization: Bearer TOKEN",
                is_bad=True,
            )
        return caller


def read(path: str) -> Callers:
    """What an auth file says. Raises BadAuthFile."""
    known: dict[bytes, tuple[bytes, Caller]] = {}
    subjects: dict[str, Caller] = {}
    anyone = None
    for table, value in _tables(path):
        try:
            if table == "anyone":
                anyone = msgspec.convert(value, _Rights).caller("")
            else:
                token, caller = _token(table.removeprefix("tokens."), value)
                if token.hash:
                    digest = bytes.fromhex(token.hash.partition(":")[2])
                    _, other = known.setdefault(digest[:_KEY], (digest, caller))
                    _must(other is caller, f"its token is that of {other.name}; give each one of its own")
                if token.subject:
                    other = subjects.setdefault(token.subject, caller)
                    _must(other is caller, f"its subject is that of {other.name}; give each one of its own")
        except (msgspec.MsgspecError, ValueError) as error:
            raise BadAuthFile(f"the auth file {path}: {_line(table)}: {_line(str(error))}") from None
    return Callers(known, subjects, anyone)


def _token(name: str, value: object) -> tuple[_Token, Caller]:
    """A token and who shows it. Raises MsgspecError, ValueError."""
    _must(_NAME.fullmatch(name), "a name is 1 to 128 of A-Z a-z 0-9 . _ -, the first alphanumeric")
    token = msgspec.convert(value, _Token)
    wrong = "its hash is not sha256: and 64 digits; make one with registryd token new"
    _must(_HASH.fullmatch(token.hash) or (token.subject and not token.hash), wrong)
    return token, token.caller(name)


def _line(text: str) -> str:
    """A text that may repeat what is in the file, which may be line breaks, in one line."""
    return text if text.isprintable() else repr(text)


def _must(is_so: object, else_wrong: str) -> None:
    if not is_so:
        raise ValueError(else_wrong)


def _tables(path: str) -> list[tuple[str, object]]:
    """The tables of an auth file, each after its name. Raises BadAuthFile."""
    try:
        file = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise BadAuthFile(f"cannot read the auth file {path}: {error.strerror}; set --auth-file") from None
    except (ValueError, RecursionError) as error:
        raise BadAuthFile(f"the auth file {path} is no TOML: {_line(str(error))}") from None
    tokens = file.pop("tokens", {})
    if unknown := next((name for name in file if name != "anyone"), None):
        raise BadAuthFile(
            f"the auth file {path}: there is no {_line(unknown)}; it has tables [tokens.NAME] and [anyone]"
        )
    if not isinstance(tokens, dict):
        raise BadAuthFile(f"the auth file {path}: tokens is no table; give each token a table [tokens.NAME]")
    return [*((f"tokens.{name}", value) for name, value in tokens.items()), *file.items()]


def new_token(path: str, name: str, allow: Sequence[str], services: Sequence[str]) -> str:
    """Adds a token to an auth file, which is made where there is none, and gives it back: it is nowhere else. Raises
    BadAuthFile."""
    file, token = Path(path).resolve(), PREFIX + secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    table = (
        f"[tokens.{_quoted(name)}]\n"
        f'hash = "sha256:{digest}"\n'
        f"allow = [{', '.join(map(_quoted, allow))}]\n"
        f"services = [{', '.join(map(_quoted, services))}]\n"
    )
    try:
        with _alone(file.parent):
            former = file.read_text("utf-8") if file.exists() else ""
            if former:
                read(path)
                if f"tokens.{name}" in dict(_tables(path)):
                    raise BadAuthFile(
                        f"the auth file {path} has a token {name!r}; take another name, or remove its table"
                    )
            _replace(file, f"{former.rstrip()}\n\n{table}" if former.strip() else table)
    except OSError as error:
        raise BadAuthFile(f"cannot write the auth file {path}: {error.strerror}; set --auth-file") from None
    return token


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Others who make a token at the same time wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(file: Path, text: str) -> None:
    """Writes a file whole or not at all; nobody but its owner may read a new one. Raises BadAuthFile where it would not
    be one that can be used, OSError."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
            if file.exists():
                stat = file.stat()
                os.fchmod(new.fileno(), stat.st_mode & 0o7777)
                os.fchown(new.fileno(), stat.st_uid, stat.st_gid)
        try:
            read(name)
        except BadAuthFile as error:
            raise BadAuthFile(str(error).replace(name, str(file))) from None
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _quoted(text: str) -> str:
    """A string of TOML."""
    return json.dumps(text)
