"""The settings: each declared once, below, with its default, its environment name, its check and its help.

The flags, `--help`, the README's tables and the checks are made from the declarations. A flag beats the environment,
which beats the settings file. Only server.py reads a Config; everyone else gets plain values.
"""

import argparse
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from registryd.core.access import RIGHTS
from registryd.core.limits import Limits, flag_of

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*)", re.ASCII)
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)


class BadSetting(Exception):
    """A setting has a value that cannot be used; the text is one line that names it."""


class Setting(NamedTuple):
    """One declared setting. `parse` turns text into the value, or raises ValueError that says what to give."""

    name: str
    flag: str
    env: tuple[str, ...]
    default: Any
    parse: Callable[[str], Any]
    help: str
    #: Whether a reload can change it; else it needs a restart.
    reloads: bool

    def text(self, value: Any) -> str:
        """A value as it would be given."""
        return (f"{value:g}" if isinstance(value, float) else str(value)) or "none"


class Changed(NamedTuple):
    """A setting that has another value than before."""

    setting: Setting
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.setting.flag} from {self.setting.text(self.before)} to {self.setting.text(self.after)}"


def _setting(
    default: T, env: str | tuple[str, ...], parse: Callable[[str], T], help: str, *, reloads: bool = False
) -> T:
    names = (env,) if isinstance(env, str) else env
    declared: T = field(default=default, metadata={"env": names, "parse": parse, "help": help, "reloads": reloads})
    return declared


def _host(text: str) -> str:
    if not text or any(c.isspace() for c in text) or text == "*":
        raise ValueError("give an address or a host name; 0.0.0.0 or :: is every address there is")
    return text[1:-1] if text.startswith("[") and text.endswith("]") else text


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise ValueError(f"give a whole number from {least} to {most}")
        return int(text)

    return parse


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        seconds = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not least <= seconds <= most:
            raise ValueError(f"give a number of seconds from {least:g} to {most:g}")
        return seconds

    return parse


def _share(text: str) -> float:
    share = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 <= share <= 1:
        raise ValueError("give a number from 0 to 1; 0 is off")
    return share


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"give one of {', '.join(choices)}")
        return text.lower()

    return parse


def _hosts(text: str) -> str:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if bad := next((name for name in names if name != "*" and not _HOST_NAME.fullmatch(name)), None):
        raise ValueError(f"{bad!r} is no host name; give names without ports, separated by commas, or *")
    return ",".join(names)


def _path(text: str) -> str:
    return text


def _folder(text: str) -> str:
    if ":" in text:  # systemd's way to name several
        raise ValueError("give one directory")
    return text


@dataclass(frozen=True)
class Config:
    """What was asked for, checked."""

    settings: str = _setting(
        "", "REGISTRYD_SETTINGS", _path,
        "file with a NAME=value a line, by the names of the environment, which beats it; a reload reads it again; as "
        "--settings=-FILE it need not be there",
    )  # fmt: skip
    host: str = _setting("127.0.0.1", "REGISTRYD_HOST", _host, "address or host name to listen on")
    port: int = _setting(8006, "REGISTRYD_PORT", _integer(0, 65535), "port to listen on; 0 takes a free one")
    heartbeat_timeout: float = _setting(
        30.0, "HEARTBEAT_TIMEOUT", _seconds(1, 86400), "seconds without a heartbeat after which an instance is gone, "
        "unless it asks for a ttl of its own", reloads=True,
    )  # fmt: skip
    cleanup_interval: float = _setting(
        10.0, "CLEANUP_INTERVAL", _seconds(0.1, 3600), "seconds between two sweeps for instances that are gone",
        reloads=True,
    )  # fmt: skip
    suspect_share: float = _setting(
        0.0, "REGISTRYD_SUSPECT_SHARE", _share,
        "share of the leases of a service, ten at least, that must have gone silent for those that end to be listed "
        "for one more ttl, as suspect: it may be us who cannot be reached; 0 is off", reloads=True,
    )  # fmt: skip
    http: str = _setting(
        "auto", "REGISTRYD_HTTP", _choice("auto", "front", "tornado"),
        "HTTP server: the front, which needs the extra `speed`, or Tornado's own; auto takes the front if it is there",
    )  # fmt: skip
    state_dir: str = _setting(
        "", ("REGISTRYD_STATE_DIR", "STATE_DIRECTORY"), _folder,
        "directory to keep the state in, over restarts and kills; without one, memory only",
    )  # fmt: skip
    auth_file: str = _setting(
        "", "REGISTRYD_AUTH_FILE", _path,
        "file that says who may do what, by tokens (registryd token new makes one); without one, everyone may do "
        "everything; a reload reads it again", reloads=True,
    )  # fmt: skip
    tls_cert: str = _setting(
        "", "REGISTRYD_TLS_CERT", _path, "file with the certificate chain (PEM) to speak TLS with; a reload reads it "
        "again, for connections that come then", reloads=True,
    )  # fmt: skip
    tls_key: str = _setting(
        "", "REGISTRYD_TLS_KEY", _path, "file with the key of the certificate, unless it is in that file", reloads=True
    )
    tls_client_ca: str = _setting(
        "", "REGISTRYD_TLS_CLIENT_CA", _path,
        "file with authorities (PEM), a certificate of which every client must show", reloads=True,
    )  # fmt: skip
    allow_hosts: str = _setting(
        "", "REGISTRYD_ALLOW_HOSTS", _hosts,
        "names by which it may be asked for (Host:), separated by commas, beside localhost, addresses and this "
        "machine's name; * is any, so that a page elsewhere may give us a name of its own", reloads=True,
    )  # fmt: skip
    drain_timeout: float = _setting(
        10.0, "REGISTRYD_DRAIN_TIMEOUT", _seconds(0, 3600), "seconds that requests under way get to finish at a stop",
        reloads=True,
    )  # fmt: skip
    keep_connections: int = _setting(
        0, ("REGISTRYD_KEEP_CONNECTIONS", "FDSTORE"), _integer(0, 2**31),
        "idle connections that the service manager keeps over a restart: FileDescriptorStoreMax= of the unit",
        reloads=True,
    )  # fmt: skip
    log_level: str = _setting(
        "info", "REGISTRYD_LOG_LEVEL", _choice("debug", "info", "warning", "error"), "least severity that is logged",
        reloads=True,
    )  # fmt: skip
    log_format: str = _setting(
        "auto", "REGISTRYD_LOG_FORMAT", _choice("auto", "plain", "json"),
        "form of the log: a plain line or a JSON object per entry; auto is entries with fields where the journal reads "
        "it, else plain",
    )  # fmt: skip
    limits: Limits = field(default_factory=Limits)
    #: Whether to tell what is in the state directory, and no more.
    check_state: bool = False


def settings() -> list[Setting]:
    """Every setting, limits included, in the order in which they are declared."""
    found = [
        Setting(part.name, "--" + part.name.replace("_", "-"), default=part.default, **part.metadata)
        for part in dataclasses.fields(Config)
        if part.metadata
    ]
    for part in dataclasses.fields(Limits):
        env = f"REGISTRYD_MAX_{part.name.upper()}"
        words = f"most {part.metadata['help']}"
        parse = _integer(part.metadata["least"], 2**31)
        found.append(Setting(part.name, flag_of(part.name), (env,), part.default, parse, words, reloads=True))
    return found


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The configuration that these arguments, this environment and the settings file that they name ask for. Raises
    BadSetting.

    `--help` and `--version` print and raise SystemExit, as argparse has it.
    """
    given = vars(_parser().parse_args(argv))
    path = given["settings"] or environ.get("REGISTRYD_SETTINGS")
    lines = read_file(path) if path else {}
    values: dict[str, Any] = {"check_state": given["check_state"]}
    for setting in settings():
        for source, text in _sources(setting, given, environ, lines):
            try:
                values[setting.name] = setting.parse(text)
            except ValueError as wrong:
                raise BadSetting(f"{source}: {text!r} cannot be used; {wrong}") from None
            break
    limits = {part.name: values.pop(part.name) for part in dataclasses.fields(Limits) if part.name in values}
    config = Config(**values, limits=Limits(**limits))
    if config.heartbeat_timeout > config.limits.ttl_seconds:
        raise BadSetting(
            f"--heartbeat-timeout ({config.heartbeat_timeout:g}) is over {flag_of('ttl_seconds')} "
            f"({config.limits.ttl_seconds}); no lease could be that long"
        )
    return config


def asked_to_reload(argv: Sequence[str]) -> int | None:
    """The process that `--reload` names; None where it is not given. Raises BadSetting."""
    text = _parser().parse_args(argv).reload
    if text is None:
        return None
    try:
        return _integer(1, 2**31)(text)
    except ValueError:
        raise BadSetting(f"--reload: {text!r} cannot be used; give the process id of a running registryd") from None


class NewToken(NamedTuple):
    """What `registryd token new` is asked for."""

    auth_file: str
    name: str
    allow: list[str]
    services: list[str]


def asked_for_token(argv: Sequence[str]) -> NewToken:
    """What these arguments, after `token`, ask for. Raises BadSetting."""
    parser = _Parser(prog="registryd token", allow_abbrev=False, description="Tokens for the auth file.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="new")
    new = commands.add_parser(
        "new", allow_abbrev=False, help="make a token, print it, and add its hash to the auth file",
        description="Makes a token, prints it, and adds its hash to the auth file. It cannot be shown again.",
    )  # fmt: skip
    new.add_argument("--auth-file", required=True, metavar="FILE", help="made, for nobody else to read, if it is new")
    new.add_argument("--name", required=True, help="whose it is; instances belong to the name that registered them")
    new.add_argument(
        "--allow", required=True, action="append", metavar="RIGHT", help=f"{', '.join(RIGHTS)}; repeatable"
    )
    new.add_argument(
        "--service", action="append", metavar="PATTERN",
        help="names of services that this is for, * and ? as in a shell; repeatable; all, where it is not given",
    )  # fmt: skip
    given = parser.parse_args(argv)
    return NewToken(given.auth_file, given.name, given.allow, given.service or ["*"])


def changes(before: Config, after: Config) -> list[Changed]:
    """The settings, limits included, that differ."""
    found = []
    for setting in settings():
        old, new = (getattr(c if hasattr(c, setting.name) else c.limits, setting.name) for c in (before, after))
        if old != new:
            found.append(Changed(setting, old, new))
    return found


def in_force(before: Config, after: Config) -> Config:
    """What a reload makes of one configuration and another: the later one, but for what needs a restart."""
    kept = {change.setting.name: change.before for change in changes(before, after) if not change.setting.reloads}
    return dataclasses.replace(after, **kept)


class Line(NamedTuple):
    """A line of the settings file."""

    #: The file and the line's number, for people.
    where: str
    value: str


def read_file(path: str) -> dict[str, Line]:
    """The lines of a settings file by name. One with a - before it need not be there. Raises BadSetting."""
    may_be_missing, path = path.startswith("-"), path.removeprefix("-")
    try:
        with open(path, encoding="utf-8") as file:
            texts = file.read().split("\n")
    except (OSError, ValueError) as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            return {}
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSetting(f"--settings: cannot read {path}: {why}") from None
    known = {name for setting in settings() for name in setting.env if setting.name != "settings"}
    lines: dict[str, Line] = {}
    for number, text in enumerate(map(str.strip, texts), 1):
        if text and text[0] not in "#;":
            name, value = _name_and_value(f"{path} line {number}", text, known)
            lines[name] = Line(f"{path} line {number}", value)
    return lines


def _name_and_value(where: str, text: str, known: Collection[str]) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not _NAME.fullmatch(name):
        raise BadSetting(f"{where}: {text!r} is no setting; give NAME=value")
    if name not in known:
        raise BadSetting(f"{where}: there is no setting {name}; see registryd --help")
    if value[:1] in ("'", '"'):
        if len(value) < 2 or value[-1] != value[0] or value[0] in value[1:-1]:
            shown = value if value.isprintable() else repr(value)
            raise BadSetting(f"{where}: {shown} has no closing quote at its end")
        value = value[1:-1]
    return name, value


def _sources(
    setting: Setting, given: Mapping[str, str | None], environ: Mapping[str, str], lines: Mapping[str, Line]
) -> list[tuple[str, str]]:
    """(where from, text) for each place that gives this setting a value, the strongest first. Empty is unset.

    A name that only the service manager gives (STATE_DIRECTORY) comes after our own, wherever that stands."""
    flag = given[setting.name]
    found = [] if flag is None else [(setting.flag, flag)]
    for name in setting.env:
        found.append((name, environ.get(name, "")))
        if name in lines:
            found.append((f"{lines[name].where}: {name}", lines[name].value))
    return [(source, text) for source, text in found if text or source == setting.flag]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise BadSetting(f"{message}; see registryd --help")


@functools.cache
def _parser() -> argparse.ArgumentParser:
    from registryd import __version__

    parser = _Parser(
        prog="registryd",
        description="A service registry: services register over HTTP, send heartbeats and find each other.",
        epilog="A flag beats the environment variable named behind it, and that beats the same in the --settings file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"registryd {__version__}")
    parser.add_argument(
        "--check-state",
        action="store_true",
        help="tell what is in the state directory, and whether it is whole, and end",
    )
    parser.add_argument(
        "--reload",
        metavar="PID",
        help="has the running registryd PID read its settings again, and tells whether all of them are in force now",
    )
    for setting in settings():
        parser.add_argument(
            setting.flag,
            dest=setting.name,
            metavar=setting.name.upper(),
            help=f"{setting.help} [{', '.join(setting.env)}; default {setting.text(setting.default)}]".replace(
                "%", "%%"
            ),
        )
    return parser
