"""The settings: each declared once, below, with its default, its environment name, its check and its help.

The flags, `--help`, the README's tables and the checks are made from the declarations. A flag beats the environment.
Only server.py reads a Config; everyone else gets plain values.
"""

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from registryd.core.limits import Limits, flag_of

T = TypeVar("T")

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


def _setting(default: T, env: str | tuple[str, ...], parse: Callable[[str], T], help: str) -> T:
    names = (env,) if isinstance(env, str) else env
    declared: T = field(default=default, metadata={"env": names, "parse": parse, "help": help})
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


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"give one of {', '.join(choices)}")
        return text.lower()

    return parse


def _folder(text: str) -> str:
    if ":" in text:  # systemd's way to name several
        raise ValueError("give one directory")
    return text


@dataclass(frozen=True)
class Config:
    """What was asked for, checked."""

    host: str = _setting("127.0.0.1", "REGISTRYD_HOST", _host, "address or host name to listen on")
    port: int = _setting(8006, "REGISTRYD_PORT", _integer(0, 65535), "port to listen on; 0 takes a free one")
    heartbeat_timeout: float = _setting(
        30.0, "HEARTBEAT_TIMEOUT", _seconds(1, 86400), "seconds without a heartbeat after which an instance is gone, "
        "unless it asks for a ttl of its own",
    )  # fmt: skip
    cleanup_interval: float = _setting(
        10.0, "CLEANUP_INTERVAL", _seconds(0.1, 3600), "seconds between two sweeps for instances that are gone"
    )
    http: str = _setting(
        "auto", "REGISTRYD_HTTP", _choice("auto", "front", "tornado"),
        "HTTP server: the front, which needs the extra `speed`, or Tornado's own; auto takes the front if it is there",
    )  # fmt: skip
    state_dir: str = _setting(
        "", ("REGISTRYD_STATE_DIR", "STATE_DIRECTORY"), _folder,
        "directory to keep the state in, over restarts and kills; without one, memory only",
    )  # fmt: skip
    drain_timeout: float = _setting(
        10.0, "REGISTRYD_DRAIN_TIMEOUT", _seconds(0, 3600), "seconds that requests under way get to finish at a stop"
    )
    log_level: str = _setting(
        "info", "REGISTRYD_LOG_LEVEL", _choice("debug", "info", "warning", "error"), "least severity that is logged"
    )
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
        found.append(Setting(part.name, flag_of(part.name), (env,), part.default, _integer(1, 2**31), words))
    return found


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The configuration that these arguments and this environment ask for. Raises BadSetting.

    `--help` and `--version` print and raise SystemExit, as argparse has it.
    """
    given = vars(_parser().parse_args(argv))
    values: dict[str, Any] = {"check_state": given["check_state"]}
    for setting in settings():
        for source, text in _sources(setting, given, environ):
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


def _sources(setting: Setting, given: Mapping[str, str | None], environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """(where from, text) for each place that gives this setting a value, the strongest first. Empty is unset."""
    flag = given[setting.name]
    from_flag = [] if flag is None else [(setting.flag, flag)]
    return from_flag + [(name, environ[name]) for name in setting.env if environ.get(name)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise BadSetting(f"{message}; see registryd --help")


def _parser() -> argparse.ArgumentParser:
    from registryd import __version__

    parser = _Parser(
        prog="registryd",
        description="A service registry: services register over HTTP, send heartbeats and find each other.",
        epilog="A flag beats the environment variable named behind it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"registryd {__version__}")
    parser.add_argument(
        "--check-state",
        action="store_true",
        help="tell what is in the state directory, and whether it is whole, and end",
    )
    for setting in settings():
        default = f"{setting.default:g}" if isinstance(setting.default, float) else str(setting.default)
        parser.add_argument(
            setting.flag,
            dest=setting.name,
            metavar=setting.name.upper(),
            help=f"{setting.help} [{', '.join(setting.env)}; default {default or 'none'}]".replace("%", "%%"),
        )
    return parser
