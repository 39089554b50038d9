"""The command line: finds out what is asked for, has it done, and turns what went wrong into a line and a status."""

import os
import sys
from collections.abc import MutableMapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from registryd.client.answers import split
from registryd.client.errors import (
    BadSetting,
    NotARegistry,
    Refused,
    RegistrydError,
    RegistryUnreachable,
    TokenRefused,
)
from registryd.client.http import Client
from registryd.client.registries import Registries, registry_urls, sendable, without_secret
from registryd.ctl.arguments import parse
from registryd.ctl.commands import COMMANDS, words
from registryd.ctl.output import Output
from registryd.ctl.statuses import Status

if TYPE_CHECKING:
    import argparse

SHIPPED = Path(__file__).parent / "shipped"

#: What to do where no registry answers, by a sign in what was said of it.
HINTS = {
    "CERTIFICATE_VERIFY_FAILED": "; REGISTRY_CA says which authorities to trust",
    "WRONG_VERSION_NUMBER": "; it does not speak TLS: is it http://?",
}
HINT = "; is it running? --registry or REGISTRY_URL says where it is"


def main(argv: Sequence[str] | None = None) -> int:
    """Does what is asked for; gives back the exit status. The signal that has ended a command under `run` ends us."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us, who does not want to hear anything
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        getattr(sys, name).reconfigure(errors="backslashreplace")  # what cannot be written in this encoding
    output = Output(sys.stdout, sys.stderr, os.environ)
    try:
        asked = parse(sys.argv[1:] if argv is None else argv)
        status = _do(asked, os.environ, output)
        sys.stdout.flush()
    except BrokenPipeError:
        _write_no_more()
        return Status.NOBODY_READS
    except KeyboardInterrupt:
        return Status.INTERRUPTED
    except OSError as error:
        output.complain(f"cannot write what there is to say: {error.strerror}")
        _write_no_more()
        return Status.NO
    if status < 0:
        from registryd.ctl.run import die_of

        die_of(-status)
    return status


def _do(asked: "argparse.Namespace", environ: MutableMapping[str, str], output: Output) -> int:
    if asked.command == "completion":
        output.line((SHIPPED / f"registryctl.{asked.shell}").read_text().rstrip("\n"))
        return Status.DONE
    try:
        _settle(asked, environ)
        return _serve(asked, Client(Registries.of(environ)), output)
    except Refused as error:
        output.complain(words(error, asked))
        return status_of(error)
    except RegistrydError as error:
        hint = ""
        if isinstance(error, RegistryUnreachable) and not isinstance(error, NotARegistry):
            hint = next((hint for sign, hint in HINTS.items() if sign in str(error)), HINT)
        output.complain(f"{error}{hint}")
        return status_of(error)


def _serve(asked: "argparse.Namespace", client: Client, output: Output) -> int:
    """Does it. Those that are more than a call are loaded when they are asked for."""
    if asked.command == "run":
        from registryd.ctl.run import run

        return run(asked, output)
    if asked.command == "register" and asked.keep:
        from registryd.ctl.run import keep

        return keep(asked)
    if asked.command == "top":
        from registryd.ctl.screen import top

        return top(client, asked, output)
    return COMMANDS[asked.command](client, asked, output)


def _settle(asked: "argparse.Namespace", environ: MutableMapping[str, str]) -> None:
    """Has the environment say what the options say. Raises BadSetting."""
    if asked.registry is not None:
        environ["REGISTRY_URL"] = asked.registry
    if asked.token_file is not None:
        try:
            environ["REGISTRY_TOKEN"] = sendable(Path(asked.token_file).read_text().strip())
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise BadSetting(f"cannot read the token in {asked.token_file}: {why}; set --token-file") from None
    for url in registry_urls(environ):
        try:
            split(url)
        except HTTPException as error:
            raise BadSetting(f"{without_secret(url)!r}: {error}; set --registry or REGISTRY_URL") from None


def status_of(error: RegistrydError) -> Status:
    """The exit status for what a registry has said, or not said."""
    match error:
        case BadSetting():
            return Status.MISUSED
        case TokenRefused():
            return Status.REFUSED
        case Refused(status=404 | 408 | 409):
            return Status.NO
        case Refused(status=status) if status < 500 and status != 429:
            return Status.MISUSED
    return Status.NO_REGISTRY


def _write_no_more() -> None:
    """Has Python not try again, when it ends, to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
