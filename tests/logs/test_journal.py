"""The journal's own protocol, with a socket in place of journald."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import WALL, RecordingOutput, TimeTravel, travel

from registryd.logs.entries import Entry, Value
from registryd.logs.events import MESSAGE_IDS
from registryd.logs.journal import AGAIN, LONGEST, Journal


def fields(datagram: bytes) -> list[tuple[str, str]]:
    """What journald reads out of a datagram, in order."""
    found = []
    while datagram:
        line, _, datagram = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + size], datagram[8 + size + 1 :]
        found.append((name.decode(), value.decode()))
    return found


class Journald:
    """Listens as journald does; `read` gives what has come."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.path)

    def read(self) -> list[list[tuple[str, str]]]:
        found: list[list[tuple[str, str]]] = []
        while True:
            try:
                datagram = self._socket.recv(1_000_000)
            except BlockingIOError:
                return found
            found.append(fields(datagram))

    def messages(self) -> list[str]:
        return [dict(entry)["MESSAGE"] for entry in self.read() if entry]

    def close(self) -> None:
        self._socket.close()
        Path(self.path).unlink(missing_ok=True)


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    listening = Journald(tmp_path / "socket")
    yield listening
    listening.close()


@pytest.fixture
def instead() -> RecordingOutput:
    return RecordingOutput()


@pytest.fixture
def journal(journald: Journald, instead: RecordingOutput) -> Iterator[Journal]:
    sending = Journal(instead, journald.path, most=20, patience=0)
    yield sending
    sending.close()


def an_entry(message: str = "hello", level: int = logging.INFO, event: str = "", **about: Value) -> Entry:
    return Entry(level, WALL, message, event, about)


def fill(journal: Journal, journald: Journald) -> int:
    """Writes until the journal takes no more, and the first entry has to wait; gives back how many there were."""
    for n in range(10_000):
        journal.write(an_entry(f"m{n}"))
        if journal._waiting:
            return n + 1
    raise AssertionError("it takes everything")


def test_an_entry_has_its_fields(journal: Journal, journald: Journald) -> None:
    journal.write(an_entry("gone", event="expired", service=["a", "b"], instance="i1", index=7, peer="", count=0))

    assert journald.read() == [
        [
            ("MESSAGE", "gone"), ("PRIORITY", "6"), ("SYSLOG_IDENTIFIER", "registryd"),
            ("MESSAGE_ID", MESSAGE_IDS["expired"]), ("REGISTRYD_EVENT", "expired"), ("REGISTRYD_SERVICE", "a"),
            ("REGISTRYD_SERVICE", "b"), ("REGISTRYD_INSTANCE", "i1"), ("REGISTRYD_INDEX", "7"),
            ("REGISTRYD_COUNT", "0"),
        ]
    ]  # fmt: skip


def test_what_is_no_event_has_no_id(journal: Journal, journald: Journald) -> None:
    journal.write(an_entry("hello", logging.WARNING))

    assert journald.read() == [[("MESSAGE", "hello"), ("PRIORITY", "4"), ("SYSLOG_IDENTIFIER", "registryd")]]


@pytest.mark.parametrize("nasty", ["a\nPRIORITY=0\n", "\n", "a\nb\n\x05\0\0\0\0\0\0\0PRIORITY=0", "=\n=", "a\r\x00b"])
def test_nobody_can_begin_a_field_of_his_own(journal: Journal, journald: Journald, nasty: str) -> None:
    journal.write(an_entry(nasty, event="registered", reason=nasty, service=[nasty, "x"]))

    (entry,) = journald.read()
    assert [name for name, _ in entry] == [
        "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE_ID", "REGISTRYD_EVENT", "REGISTRYD_REASON",
        "REGISTRYD_SERVICE", "REGISTRYD_SERVICE",
    ]  # fmt: skip
    assert ("REGISTRYD_REASON", nasty) in entry
    assert entry[0][1].isprintable()


def test_half_a_character_is_written_as_its_number(journal: Journal, journald: Journald) -> None:
    journal.write(an_entry("a\udc80", event="x", reason="b\ud800"))

    assert dict(journald.read()[0])["REGISTRYD_REASON"] == "b\\ud800"


def test_a_failure_says_in_a_line_what_and_keeps_the_stack_apart(journal: Journal, journald: Journald) -> None:
    failure = an_entry("failed request=GET /", logging.ERROR, "failed")
    journal.write(failure._replace(error="RuntimeError: planted\nbug", traceback="Traceback:\n  here\n"))

    entry = dict(journald.read()[0])
    assert entry["MESSAGE"] == "failed request=GET /: RuntimeError: planted | bug"
    assert entry["REGISTRYD_TRACEBACK"] == "Traceback:\n  here\n"


def test_an_entry_that_is_too_large_is_shortened(
    journal: Journal, journald: Journald, instead: RecordingOutput
) -> None:
    journal.write(an_entry("big", event="failed", reason="x" * 20_000_000, service="users"))

    entry = dict(journald.read()[0])
    assert (entry["MESSAGE"], entry["REGISTRYD_SERVICE"]) == ("big", "users")
    assert entry["REGISTRYD_REASON"] == "x" * LONGEST
    assert instead.messages == []


def test_where_there_is_no_journal_it_goes_elsewhere_until_there_is(tmp_path: Path, instead: RecordingOutput) -> None:
    journal = Journal(instead, str(tmp_path / "none"), patience=0)
    journal.write(an_entry("one"))
    listening = Journald(tmp_path / "none")
    journal.write(an_entry("two"))
    assert (instead.messages, listening.messages()) == (["one"], ["two"])

    listening._socket.close()  # its address is still there, and nobody listens
    journal.write(an_entry("three"))
    listening.close()
    journal.write(an_entry("four"))
    assert instead.messages == ["one", "three", "four"]
    journal.close()
    journal.write(an_entry("late"))
    assert instead.messages[-1] == "late"


def test_a_journal_that_does_not_read_is_not_waited_for_and_gets_it_later(
    journald: Journald, instead: RecordingOutput
) -> None:
    async def story(loop: TimeTravel) -> None:
        journal = Journal(instead, journald.path, most=20, patience=0)
        written = fill(journal, journald)
        for n in range(5):
            journal.write(an_entry(f"m{written + n}"))
        await asyncio.sleep(3 * AGAIN)
        seen: list[str] = []
        while len(seen) < written + 5:
            seen += journald.messages()
            await asyncio.sleep(AGAIN)
        assert seen == [f"m{n}" for n in range(written + 5)], "all of them, in order"
        assert journal._again is None, "and then nothing is tried any more"
        journal.close()

    travel(story)
    assert instead.messages == []


def test_what_is_lost_is_counted_and_said(journald: Journald, instead: RecordingOutput) -> None:
    async def story(loop: TimeTravel) -> None:
        journal = Journal(instead, journald.path, most=20, patience=0)
        written = fill(journal, journald)
        for n in range(19 + 30):
            journal.write(an_entry(f"m{written + n}"))
        seen: list[dict[str, str]] = []
        while journal._is_behind:
            seen += map(dict, journald.read())
            await asyncio.sleep(AGAIN)
        seen += map(dict, journald.read())
        assert [entry["MESSAGE"] for entry in seen[:-1]] == [f"m{n}" for n in range(written + 19)]
        assert seen[-1]["MESSAGE"] == "log entries lost count=30: the journal did not take them in time"
        assert (seen[-1]["PRIORITY"], seen[-1]["REGISTRYD_COUNT"]) == ("4", "30")
        assert seen[-1]["MESSAGE_ID"] == MESSAGE_IDS["entries_lost"]
        journal.write(an_entry("after"))
        assert journald.messages() == ["after"]
        instead.lost = 2
        assert journal.lost == 32, "together with those that were lost while there was no journal"
        journal.close()

    travel(story)


def test_without_a_loop_what_waits_goes_with_the_next_entry(journal: Journal, journald: Journald) -> None:
    written = fill(journal, journald)
    seen = journald.messages()
    journal.write(an_entry("next"))
    seen += journald.messages()

    assert seen == [*(f"m{n}" for n in range(written)), "next"]


def test_at_the_end_it_waits_until_the_journal_has_read_all(journald: Journald, instead: RecordingOutput) -> None:
    journal = Journal(instead, journald.path, patience=20)
    journal.write(an_entry("last"))
    assert journal._unread() > 0

    async def story() -> list[list[tuple[str, str]]]:
        closing = asyncio.get_running_loop().run_in_executor(None, journal.close)
        seen: list[list[tuple[str, str]]] = []
        while not closing.done():
            seen += journald.read()
            await asyncio.sleep(0)
        await closing
        return seen

    seen = asyncio.run(story())
    assert [dict(entry).get("MESSAGE") for entry in seen] == ["last", None], "behind the last entry comes nothing"


def test_a_journal_that_hangs_does_not_hold_up_the_end(journald: Journald, instead: RecordingOutput) -> None:
    journal = Journal(instead, journald.path, patience=0.01)
    fill(journal, journald)
    journal.close()

    journal.flush()
    assert instead.messages == []
