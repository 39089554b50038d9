"""The kinds of events: what is logged has an id, and the catalog explains each."""

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from registryd.core.model import ChangeKind
from registryd.logs.events import MESSAGE_IDS

ROOT = Path(__file__).parent.parent.parent
CATALOG = ROOT / "systemd/registryd.catalog"
_ENTRY = re.compile(
    r"^# (?P<event>\w+)\n-- (?P<id>[0-9a-f]{32})\nSubject: (?P<subject>[^\n]{1,80})\nDefined-By: registryd\n"
    r"\n(?P<text>(?:(?!^#|^-- )[^\n]{0,80}\n)+)",
    re.MULTILINE,
)


def events_in_the_code() -> set[str]:
    """Every event that a log call in registryd names."""
    found = set()
    for path in (ROOT / "registryd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                found |= {
                    value.value
                    for key, value in pairs
                    if isinstance(key, ast.Constant) and key.value == "event" and isinstance(value, ast.Constant)
                }
    return {event for event in found if isinstance(event, str)}


def test_every_event_that_is_logged_has_an_id() -> None:
    assert "stalled" in events_in_the_code()
    assert {*get_args(ChangeKind), *events_in_the_code()} <= MESSAGE_IDS.keys()


def test_every_id_is_of_128_bits_and_of_one_event() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in MESSAGE_IDS.values())
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)


def test_the_catalog_explains_every_event_and_no_other() -> None:
    text = CATALOG.read_text()
    entries = {match["event"]: match["id"] for match in _ENTRY.finditer(text)}

    assert entries == MESSAGE_IDS
    assert len(entries) == text.count("\n-- ")


@pytest.mark.skipif(
    shutil.which("journalctl") is None,
    reason="only journalctl can compile a catalog, and this machine has no systemd: apt-get install systemd",
)
def test_journalctl_understands_the_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)

    def journalctl(*args: str) -> str:
        ran = subprocess.run(["journalctl", f"--root={tmp_path}", *args], capture_output=True, text=True, check=True)
        assert ran.stderr == ""
        return ran.stdout

    journalctl("--update-catalog")
    listed = dict(line.split(" ", 1) for line in journalctl("--list-catalog").splitlines())
    assert listed.keys() == set(MESSAGE_IDS.values())
    assert all(text.startswith("registryd: ") for text in listed.values())
