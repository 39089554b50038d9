"""Lines on a stream: plain with the time, with a priority for the journal, or JSON for programs."""

import asyncio
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from support import WALL

from registryd.logs.entries import Entry, Value, of_record
from registryd.logs.lines import Lines, as_json, plain, prefixed


def an_entry(
    message: str,
    level: int = logging.INFO,
    event: str = "",
    fields: Mapping[str, Value] | None = None,
    traceback: str = "",
    created: float = WALL,
) -> Entry:
    return Entry(level, created, message, event, fields or {}, traceback)


def a_record(message: str, level: int = logging.INFO, **more: object) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelno": level, "levelname": logging.getLevelName(level), **more})


def a_failure() -> Entry:
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("planted\nbug")
    error = (caught.type, caught.value, caught.tb)
    return of_record(a_record("failed", logging.ERROR, exc_info=error, event="failed", created=WALL))


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_a_line_for_the_journal_begins_with_its_priority(level: int, priority: int) -> None:
    assert prefixed(an_entry("hello", level)) == f"<{priority}>hello"


def test_a_line_for_others_begins_with_the_time() -> None:
    assert plain(an_entry("hello", created=WALL + 0.9)) == "2024-01-15T10:30:00Z INFO hello"


@pytest.mark.parametrize("nasty", ["a\nb", "a\r<0>b", "a\x1b[31mb", "a\x00b", "a\u2028b", "a\x85b", "a\u202eb"])
def test_nobody_can_start_a_line_of_his_own(nasty: str) -> None:
    entry = an_entry(nasty, event="registered", fields={"service": nasty, "more": [nasty]}, traceback=nasty)
    for line in (prefixed(entry), plain(entry), as_json(entry)):
        assert len(line.splitlines()) == 1
        assert line.isprintable()
    told = json.loads(as_json(entry))
    assert (told["service"], told["more"]) == (nasty, [nasty]), "for a program it is what it was"


def test_a_traceback_is_one_line() -> None:
    line = prefixed(a_failure())

    assert len(line.splitlines()) == 1
    assert line.startswith("<3>failed | Traceback (most recent call last): | ")
    assert "RuntimeError: planted" in line


def test_json_has_the_fields_under_their_names() -> None:
    fields: dict[str, Value] = {
        "service": "users", "instance": "i1", "peer": "", "index": 7, "url": ["http://a", "http://b"],
    }  # fmt: skip
    entry = an_entry("registered so", created=WALL + 0.25, event="registered", fields=fields)

    assert as_json(entry) == (
        '{"time":"2024-01-15T10:30:00.250Z","level":"info","event":"registered","message":"registered so",'
        '"service":"users","instance":"i1","index":7,"url":["http://a","http://b"]}'
    )
    assert as_json(an_entry("hello", logging.WARNING)) == (
        '{"time":"2024-01-15T10:30:00.000Z","level":"warning","message":"hello"}'
    )


def test_json_keeps_a_traceback_apart() -> None:
    told = json.loads(as_json(a_failure()))

    assert (told["message"], told["error"]) == ("failed", "RuntimeError: planted\nbug")
    assert told["traceback"].startswith("Traceback (most recent call last):\n")


def test_json_is_written_of_what_no_json_can_carry() -> None:
    told = json.loads(as_json(an_entry("a\udc80", event="x", fields={"reason": "b\ud800", "n": 1, "l": ["\udfff"]})))

    assert (told["message"], told["reason"], told["n"], told["l"]) == ("a\\udc80", "b\\ud800", 1, ["\\udfff"])


def test_a_field_cannot_replace_what_every_line_has() -> None:
    told = json.loads(as_json(an_entry("m", event="x", fields={"time": "never", "level": "quiet"})))

    assert (told["time"], told["level"]) == ("2024-01-15T10:30:00.000Z", "info")


def test_a_record_brings_its_event_and_what_was_said_along_with_it() -> None:
    entry = of_record(a_record("stalled", logging.WARNING, event="stalled", seconds=1.5))
    assert (entry.message, entry.event, entry.fields) == ("stalled", "stalled", {"seconds": 1.5})

    assert of_record(a_record("other", claimed=True)).fields == {}, "without an event there are none"


async def test_in_a_loop_the_lines_of_one_turn_are_written_together(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        lines = Lines(file, plain)
        for n in range(3):
            lines.write(an_entry(f"line {n}"))
        assert (tmp_path / "log").read_text() == ""
        await asyncio.sleep(0)
        assert (tmp_path / "log").read_text() == "".join(f"2024-01-15T10:30:00Z INFO line {n}\n" for n in range(3))

        lines.write(an_entry("soon"))
        lines.write(an_entry("look here", logging.WARNING))
        assert (tmp_path / "log").read_text().endswith("INFO soon\n2024-01-15T10:30:00Z WARNING look here\n"), (
            "at once, and in order"
        )
        await asyncio.sleep(0)
        lines.write(an_entry("and one more"))
    lines.close()  # the file is closed, and nobody is hurt


def test_without_a_loop_a_line_is_written_at_once(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        Lines(file, plain).write(an_entry("line"))
        assert (tmp_path / "log").read_text() == "2024-01-15T10:30:00Z INFO line\n"


def test_lines_that_nobody_takes_are_counted() -> None:
    stream = io.StringIO()
    lines = Lines(stream, plain)
    lines.write(an_entry("taken"))
    stream.close()
    for _ in range(3):
        lines.write(an_entry("lost"))

    assert lines.lost == 3
