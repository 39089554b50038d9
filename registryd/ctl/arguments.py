"""What may be asked for, as an argparse parser: --help, the completions and the man page are made of it."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from registryd import __version__
from registryd.core.durations import parse_duration
from registryd.ctl.statuses import Status, rows

SHELLS = ("bash", "zsh", "fish")
#: What stands before the command of `run`.
BEFORE_A_COMMAND = "--"
ENVIRONMENT = {
    "REGISTRY_URL": "where the registry is; of several, separated by commas, each is tried until one answers",
    "REGISTRY_TOKEN": "the token that it is shown",
    "REGISTRY_CA, REGISTRY_CERT, REGISTRY_KEY": "files for TLS: whom to trust, and what to show",
    "NO_COLOR": "set to anything: no colours",
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Ends with the status for wrong usage."""
        self.exit(Status.MISUSED, f"registryctl: {message}; see {self.prog} --help\n")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as it is written, with one line for each command."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def subject(text: str) -> str:
    """An argument that names a service or an instance."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def duration(text: str) -> float:
    """An argument that is a length of time, in seconds."""
    seconds = parse_duration(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(
            f"{text[:64]!r} is no length of time; write 30s, 1m30s, 500ms or plain seconds"
        )
    return seconds


def pair(text: str) -> tuple[str, str]:
    """An argument that is KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text[:64]!r} is not KEY=VALUE")
    return key, value


def count(text: str) -> int:
    """An argument that is a number, at least 0."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text[:64]!r} is no number")
    return int(text)


def endpoint(text: str) -> tuple[str, int]:
    """An argument that is HOST:PORT; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:9]) < 65536):
        raise argparse.ArgumentTypeError(f"{text[:64]!r} is not HOST:PORT")
    return host, int(port)


def epilog() -> str:
    """What stands below each help."""
    environment = [f"  {name}\n      {text}" for name, text in ENVIRONMENT.items()]
    statuses = [f"  {status:<4} {text}" for status, text in rows()]
    return "\n".join(["environment:", *environment, "", "exit status:", *statuses])


def parser() -> Parser:
    """The whole of it."""
    whole = Parser(
        prog="registryctl",
        description="Asks a registry which instances of which services are alive, and keeps programs registered.",
        epilog=epilog(),
        formatter_class=Formatter,
    )
    whole.add_argument("--version", action="version", version=f"registryctl {__version__}")
    commands = whole.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    def command(name: str, does: str, parents: Sequence[Parser], *, more: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=does, description=f"{does[0].upper()}{does[1:]}.{more}", parents=parents,
            epilog=epilog(), formatter_class=Formatter,
        )  # fmt: skip

    where, as_json, choosing, about = _where(), _as_json(), _choosing(), _about()
    command("services", "lists the services", [where, as_json])

    get = command("get", "lists the instances of a service", [where, as_json, choosing])
    get.add_argument("name", metavar="NAME", type=subject, help="name of the service")
    get.add_argument("--status", metavar="STATUS,...", help="of these statuses, or any; default: up")
    get.add_argument("--limit", metavar="N", type=count, help="at most so many")
    get.add_argument("--pick", action="store_true", help="one of them, by chance in proportion to their weight")
    get.add_argument("--urls", action="store_true", help="only their base_url, one a line")

    watch = command("watch", "tells each change as it comes, until it is interrupted", [where, as_json])
    watch.add_argument("names", metavar="NAME", type=subject, nargs="*", help="names of services; default: all")

    wait = command("wait", "waits until enough instances of a service are there", [where, as_json, choosing])
    wait.add_argument("name", metavar="NAME", type=subject, help="name of the service")
    wait.add_argument("--min", metavar="N", type=count, default=1, help="so many; default: 1")
    wait.add_argument(
        "--timeout", metavar="TIME", type=duration, default=30.0, help="no longer than this; default: 30s"
    )

    register = command(
        "register", "registers an instance", [where, as_json, about],
        more=" Without --keep its lease ends after its ttl, unless someone sends heartbeats for it.",
    )  # fmt: skip
    register.add_argument(
        "--keep", action="store_true", help="keep it registered, and deregister it when told to stop (SIGTERM, Ctrl-C)"
    )
    register.add_argument(
        "--probe", metavar="HOST:PORT", type=endpoint, help="with --keep, not before it accepts connections there"
    )

    deregister = command("deregister", "takes an instance off the list", [where, as_json])
    deregister.add_argument("id", metavar="ID", type=subject, help="its instance_id")

    for name, does in (
        ("drain", "has no reader get an instance any more, as it is to be stopped"),
        ("maintenance", "takes an instance out of service for a while"),
    ):
        override = command(name, does, [where, as_json])
        override.add_argument("id", metavar="ID", type=subject, help="its instance_id")
        override.add_argument("--reason", metavar="TEXT", help="why, for whoever asks")
        override.add_argument(
            "--for", metavar="TIME", dest="seconds", type=duration, help="for so long; default: until resumed"
        )
        if name == "drain":
            override.add_argument(
                "--wait",
                metavar="TIME",
                type=duration,
                help="wait until no reader has got it for so long",
            )
            override.add_argument(
                "--timeout",
                metavar="TIME",
                type=duration,
                default=300.0,
                help="with --wait, no longer than this; default: 5m",
            )

    resume = command("resume", "puts an instance back into service", [where, as_json])
    resume.add_argument("id", metavar="ID", type=subject, help="its instance_id")

    explain = command("explain", "tells why instances are handed out or not, and what has happened", [where, as_json])
    explain.add_argument("subject", metavar="ID|NAME", type=subject, help="an instance_id, or the name of a service")

    command("status", "tells how the registry is", [where, as_json])

    run = command(
        "run", "runs a command, and keeps it registered while it answers", [where, about],
        more=(
            "\nIt is registered as soon as its port accepts connections. SIGTERM, SIGINT and SIGQUIT take it off the\n"
            "list first and are passed on then; other signals are passed on at once. A registry that is down holds\n"
            "nothing up."
        ),
    )  # fmt: skip
    run.add_argument(
        "--probe", metavar="HOST:PORT", type=endpoint, help="where it accepts connections; default: as its URL says"
    )
    run.add_argument(
        "--grace", metavar="TIME", type=duration, default=0.0,
        help="how long it goes on serving off the list before a signal is passed on; default: 0s",
    )  # fmt: skip
    run.add_argument("argv", metavar="-- CMD", nargs="*", help="the command and its arguments")

    top = command("top", "shows the services on a terminal, live; q quits", [where])
    top.add_argument("names", metavar="NAME", type=subject, nargs="*", help="names of services; default: all")

    completion = command("completion", "prints what makes a shell complete registryctl", [])
    completion.add_argument("shell", choices=SHELLS, help="which shell")
    return whole


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What is asked for. Exits where it is wrong, or help."""
    is_run = argv[:1] == ["run"]
    # What stands behind is the command's own, whatever it looks like.
    at = argv.index(BEFORE_A_COMMAND) if is_run and BEFORE_A_COMMAND in argv else len(argv)
    whole = parser()
    for text in argv[:at]:
        if any("\udc80" <= char <= "\udcff" for char in text):
            whole.error(f"{text[:64]!r} is no text in the encoding of this terminal")
    asked = whole.parse_args(argv[:at])
    if asked.command == "register" and asked.probe is not None and not asked.keep:
        whole.error("--probe goes with --keep")
    if is_run:
        asked.argv += argv[at + 1 :]
        if not asked.argv:
            whole.error("run needs a command after --")
    return asked


def _where() -> Parser:
    group = Parser(add_help=False)
    group.add_argument("--registry", metavar="URL", help="where the registry is; default: REGISTRY_URL")
    group.add_argument("--token-file", metavar="FILE", help="file with the token to show; default: REGISTRY_TOKEN")
    return group


def _as_json() -> Parser:
    group = Parser(add_help=False)
    group.add_argument("--json", action="store_true", help="for programs: what the registry says, as JSON")
    return group


def _choosing() -> Parser:
    group = Parser(add_help=False)
    group.add_argument("--tag", metavar="TAG", action="append", default=[], help="with this tag (repeatable)")
    group.add_argument("--version", metavar="VERSION", help="of this version")
    group.add_argument("--zone", metavar="ZONE", help="of this zone")
    group.add_argument("--near", metavar="ZONE", help="those of this zone first")
    group.add_argument(
        "--meta", metavar="KEY=VALUE", type=pair, action="append", default=[], help="with this metadata (repeatable)"
    )
    return group


def _about() -> Parser:
    group = Parser(add_help=False)
    group.add_argument("--service", metavar="NAME", required=True, help="name of the service")
    group.add_argument("--url", metavar="URL", required=True, help="where others reach it")
    group.add_argument("--id", metavar="ID", help="its instance_id; default: a new one")
    group.add_argument(
        "--ttl", metavar="TIME", type=duration, help="length of its lease; default: as the registry has it"
    )
    group.add_argument("--status", choices=("up", "starting", "down"), help="what it says of itself; default: up")
    group.add_argument("--tag", metavar="TAG", action="append", help="a tag (repeatable)")
    group.add_argument("--version", metavar="VERSION", help="its version")
    group.add_argument("--zone", metavar="ZONE", help="its zone")
    group.add_argument("--weight", metavar="N", type=count, help="its share of what is picked by chance; default: 1")
    group.add_argument("--meta", metavar="KEY=VALUE", type=pair, action="append", help="metadata (repeatable)")
    return group
