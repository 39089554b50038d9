"""What is made of registryctl's parser and lies in registryd/ctl/shipped/: the completions and the man page.

`PYTHONPATH=. python tests/shipped.py`, in the tests' environment, makes them anew.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import shtab

from registryd.ctl.arguments import ENVIRONMENT, SHELLS, parser
from registryd.ctl.statuses import rows

FOLDER = Path(__file__).parent.parent / "registryd/ctl/shipped"

#: What one does with it, as the man page and nothing else shows it.
EXAMPLES = {
    "Who is there, and why is one of them not handed out?": "registryctl get users\nregistryctl explain users-1",
    "Take one out of service, and stop it when nobody has asked for it for ten seconds:": (
        "registryctl drain users-1 --reason 'deploy 42' --wait 10s && systemctl stop users"
    ),
    "Keep a program registered that knows nothing of it:": (
        "registryctl run --service pages --url http://10.0.0.5:8002 -- busybox httpd -f -p 8002"
    ),
    "In a unit, start when two instances of users are there:": (
        "ExecStartPre=/opt/registryd/bin/registryctl wait users --min 2 --timeout 30s"
    ),
}


def files() -> dict[str, str]:
    """All of them, by name."""
    made = {f"registryctl.{shell}": shtab.complete(parser(), shell=shell).rstrip("\n") + "\n" for shell in SHELLS}
    return made | {"registryctl.1": man_page()}


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    (action,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(action.choices)


def man_page() -> str:
    """The man page, in roff (man(7))."""
    whole = parser()
    shared = {"registry", "token_file", "json"}
    lines = [
        '.TH REGISTRYCTL 1 "" registryd "User Commands"',
        ".SH NAME",
        roff("registryctl - asks a registry of services, and keeps programs registered"),
        ".SH SYNOPSIS",
        ".B registryctl", ".I COMMAND", roff("[options]"),
        ".SH DESCRIPTION",
        roff(f"{whole.description}"),
        roff("A TIME is written as 30s, 1m30s, 500ms or plain seconds."),
        ".SH COMMANDS",
    ]  # fmt: skip
    for name, command in commands().items():
        lines += [
            f'.SS "{roff(" ".join([name, *arguments(command)]))}"',
            roff(" ".join((command.description or "").split())),
        ]
        for action in command._actions:
            if action.dest not in {"help", *shared}:
                lines += [*entry(action)]
    lines += [".SH COMMON OPTIONS"]
    for action in commands()["services"]._actions:
        lines += entry(action)
    lines += [".SH EXIT STATUS"]
    for status, text in rows():
        lines += [".TP", f".B {roff(status)}", roff(text)]
    lines += [".SH ENVIRONMENT"]
    for name, text in ENVIRONMENT.items():
        lines += [".TP", f".B {roff(name)}", roff(text)]
    lines += [
        ".SH FILES", ".TP", f".B {roff('/etc/registryd/announce/NAME')}",
        roff("what registryd-announce@NAME.service announces while NAME.service runs"),
        ".SH EXAMPLES",
    ]  # fmt: skip
    for what, example in EXAMPLES.items():
        lines += [".PP", roff(what), ".PP", ".EX", *(f"    {roff(line)}" for line in example.splitlines()), ".EE"]
    return "\n".join(lines) + "\n"


def arguments(command: argparse.ArgumentParser) -> Iterator[str]:
    """What must be there besides the name of a command."""
    for action in command._actions:
        if not action.option_strings:
            shown = str(action.metavar or "|".join(action.choices or ()))
            yield {"*": f"[{shown} ...]"}.get(str(action.nargs), shown)
        elif action.required:
            yield f"{action.option_strings[0]} {action.metavar}"


def entry(action: argparse.Action) -> list[str]:
    """An option or an argument, and what it is for."""
    shown = ", ".join(action.option_strings)
    value = str(action.metavar or "|".join(action.choices or ())) if action.nargs != 0 else ""
    tag = rf"\fB{roff(shown)}\fR \fI{roff(value)}\fR" if shown else rf"\fI{roff(value)}\fR"
    return [".TP", tag.removesuffix(r" \fI\fR"), roff(action.help or "")]


def roff(text: str) -> str:
    """A text that means nothing to roff."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text)
