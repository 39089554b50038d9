"""What systemd/requirements.txt pins, and what setup.py asks for. For tests to compare."""

import ast
import sys
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from readme import ROOT

PINNED = (ROOT / "systemd/requirements.txt").read_text()
_SETUP = ast.parse((ROOT / "setup.py").read_text())
#: The Pythons of Debian 12 and 13: a package may need another on one of them only.
_PYTHONS = ("3.11", "3.13")


class Pin(NamedTuple):
    """A package: what is asked for, and the hashes of the files that will do."""

    requirement: Requirement
    hashes: list[str]


def pins() -> dict[str, Pin]:
    """All that is pinned, by name; anything else than a package in the file is an error."""
    found: dict[str, Pin] = {}
    for line in PINNED.replace("\\\n", " ").splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split(" --hash=")
            pin = Pin(Requirement(requirement), [text.strip() for text in hashes])
            found[canonicalize_name(pin.requirement.name)] = pin
    return found


def asked_for() -> list[Requirement]:
    """What setup.py asks for to run with the extra `speed`, as systemd/install installs it."""
    (call,) = [node for node in ast.walk(_SETUP) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"]
    said = {keyword.arg: keyword.value for keyword in call.keywords}
    lines = ast.literal_eval(said["install_requires"]) + ast.literal_eval(said["extras_require"])["speed"]
    return [Requirement(line) for line in lines]


def built_with() -> set[str]:
    """What setup.py imports that Python does not bring."""
    found = set()
    for node in ast.walk(_SETUP):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def needed_to_run() -> set[str]:
    """The names of what is asked for and of all that this needs in turn, by what is installed here."""
    found: set[str] = set()
    rest = asked_for()
    while rest:
        requirement = rest.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and _is_needed(requirement):
            found.add(name)
            rest += [Requirement(line) for line in metadata.requires(name) or []]
    return found


def _is_needed(requirement: Requirement) -> bool:
    """Whether it is on one of the Pythons, without any extra."""
    return requirement.marker is None or any(
        requirement.marker.evaluate({"extra": "", "python_version": python, "python_full_version": f"{python}.0"})
        for python in _PYTHONS
    )
