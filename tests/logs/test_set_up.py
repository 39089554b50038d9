"""The log as the daemon sets it up: its form, its level, and where it goes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from registryd.logs import cannot_start
from registryd.systemd import is_journal


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        stat = os.fstat(file.fileno())
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"})
        assert not is_journal(file.fileno(), {})
    assert not is_journal(999_999, {"JOURNAL_STREAM": "1:2"})


def test_why_it_cannot_start_is_a_line_with_neither_time_nor_level(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        stat = os.fstat(file.fileno())
        journal = {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}
        assert cannot_start("no\nway", "auto", {}, file) == "registryd: no | way"
        assert cannot_start("no way", "auto", journal, file) == "<2>registryd: no way"
        assert json.loads(cannot_start("no way", "json", journal, file))["message"] == "registryd: no way"


def log(form: str, level: str = "warning", *, as_journal: bool = False) -> str:
    """What a process writes to stderr that logs something at two levels."""
    script = (
        "import logging, os, sys; from registryd import logs; stat = os.fstat(2);"
        f"environ = {{'JOURNAL_STREAM': f'{{stat.st_dev}}:{{stat.st_ino}}'}} if {as_journal} else {{}};"
        f"log = logs.set_up('{level}', '{form}', environ, sys.stderr);"
        "logging.getLogger('x').info('quiet'); logging.getLogger('x').warning('loud', extra={'event': 'e', 'n': 1});"
        "log.close()"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("form", ["auto", "plain"])
def test_the_log_is_plain_where_the_journal_does_not_read_it(form: str) -> None:
    assert re.fullmatch(r"\S+Z WARNING loud\n", log(form))
    assert re.fullmatch(r"\S+Z INFO quiet\n\S+Z WARNING loud\n", log(form, "info"))


def test_the_log_is_json_on_request() -> None:
    told = json.loads(log("json"))

    assert (told["level"], told["event"], told["message"], told["n"]) == ("warning", "e", "loud", 1)


def test_plain_lines_for_the_journal_have_priorities() -> None:
    assert log("plain", as_journal=True) == "<4>loud\n"
