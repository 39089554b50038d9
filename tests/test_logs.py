"""The log: one line per event, with a priority for the journal and with the time for everyone else."""

import asyncio
import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.logs import ChangeLog, LineFormatter, LineHandler, plain_line
from registryd.systemd import is_journal


def a_record(message: str, level: int = logging.INFO, **more: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": level, "levelname": logging.getLevelName(level), **more})


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_a_line_for_the_journal_begins_with_its_priority(level: int, priority: int) -> None:
    assert LineFormatter(journal=True).format(a_record("hello", level)) == f"<{priority}>hello"


def test_a_line_for_others_begins_with_the_time() -> None:
    line = LineFormatter(journal=False).format(a_record("hello", created=WALL + 0.9))

    assert line == "2024-01-15T10:30:00Z INFO hello"


@pytest.mark.parametrize("nasty", ["a\nb", "a\r<0>b", "a\x1b[31mb", "a\x00b", "a\u2028b", "a\x85b"])
def test_nobody_can_start_a_line_of_his_own(nasty: str) -> None:
    line = LineFormatter(journal=True).format(a_record(nasty))

    assert len(line.splitlines()) == 1
    assert line.isprintable()


def test_a_traceback_is_one_line() -> None:
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("planted\nbug")
    error = (caught.type, caught.value, caught.tb)
    line = LineFormatter(journal=True).format(a_record("failed", logging.ERROR, exc_info=error))

    assert len(line.splitlines()) == 1
    assert line.startswith("<3>failed | Traceback (most recent call last): | ")
    assert "RuntimeError: planted" in line


def test_the_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        stat = os.fstat(file.fileno())
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"})
        assert not is_journal(file.fileno(), {})
    assert not is_journal(999_999, {"JOURNAL_STREAM": "1:2"})


def test_a_plain_line_has_neither(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        stat = os.fstat(file.fileno())
        assert plain_line("no\nway", {}, file) == "no | way"
        assert plain_line("no way", {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"}, file) == "<2>no way"


@pytest.mark.parametrize(("level", "lines"), [("warning", 0), ("info", 1), ("debug", 2)])
def test_a_change_is_logged_with_what_and_why(level: str, lines: int) -> None:
    stream = io.StringIO()
    log = ChangeLog(LineHandler(stream, LineFormatter(journal=True)), level)
    (change,) = new_state().decide(a_registration(), NOW, WALL)
    log.note(change)
    log.note(msgspec.structs.replace(change, kind="updated", reason="reports\ndown", is_report=True))

    about = "service=users instance=i1 url=http://10.0.0.5:8000 generation=1 index=0"
    expected = [f"<6>registered {about} reason='new'", f"<7>updated {about} reason='reports\\ndown'"]
    assert stream.getvalue().splitlines() == expected[:lines]


async def test_in_a_loop_the_lines_of_one_turn_are_written_together(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        handler = LineHandler(file, LineFormatter(journal=False))
        for n in range(3):
            handler.handle(a_record(f"line {n}", created=WALL))
        assert (tmp_path / "log").read_text() == ""
        await asyncio.sleep(0)
        assert (tmp_path / "log").read_text() == "".join(f"2024-01-15T10:30:00Z INFO line {n}\n" for n in range(3))

        handler.handle(a_record("soon", created=WALL))
        handler.handle(a_record("look here", logging.WARNING, created=WALL))
        assert (tmp_path / "log").read_text().endswith("INFO soon\n2024-01-15T10:30:00Z WARNING look here\n"), (
            "at once, and in order"
        )
        await asyncio.sleep(0)
        handler.handle(a_record("and one more"))
    handler.flush()  # the file is closed, and nobody is hurt


def test_without_a_loop_a_line_is_written_at_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        LineHandler(file, LineFormatter(journal=False)).handle(a_record("line", created=WALL))
        assert (tmp_path / "log").read_text() == "2024-01-15T10:30:00Z INFO line\n"


def test_the_log_is_set_up_for_a_stream_and_a_level() -> None:
    script = (
        "import logging, os, sys; from registryd import logs; logs.set_up('warning', os.environ, sys.stderr);"
        "logging.getLogger('x').info('quiet'); logging.getLogger('x').warning('loud')"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert re.fullmatch(r"\S+Z WARNING loud\n", ran.stderr)
