"""Changes in the log: one by one, and in masses."""

import asyncio
import logging

import msgspec
import pytest
from support import NOW, WALL, RecordingOutput, TimeTravel, a_registration, new_state, travel

from registryd.core.model import Change, Origin
from registryd.logs.changes import MOST_EACH, SPAN, ChangeLog, Gate, LogHandler


def a_change(service_name: str = "users", **more: object) -> Change:
    (change,) = new_state().decide(a_registration(service_name), NOW, WALL)
    return msgspec.structs.replace(change, **more)


def a_log(kept: RecordingOutput, level: str = "info") -> ChangeLog:
    return ChangeLog(kept, Gate(kept), level)


@pytest.mark.parametrize(("level", "number"), [("warning", 0), ("info", 1), ("debug", 2)])
def test_a_change_is_logged_with_what_and_why(level: str, number: int) -> None:
    kept = RecordingOutput()
    log = a_log(kept, level)
    log.note(a_change())
    log.note(a_change(kind="updated", reason="reports\ndown", is_report=True))

    about = "service=users instance=i1 url=http://10.0.0.5:8000 generation=1 index=0"
    expected = [
        (logging.INFO, "registered", f"registered {about} reason='new'"),
        (logging.DEBUG, "updated", f"updated {about} reason='reports\\ndown'"),
    ]
    assert [(entry.level, entry.event, entry.message) for entry in kept.entries] == expected[:number]


def test_a_change_has_its_fields() -> None:
    kept = RecordingOutput()
    a_log(kept).note(a_change(origin=Origin("10.0.0.9", "curl"), index=17))

    assert kept.entries[0].fields == {
        "service": "users", "instance": "i1", "url": "http://10.0.0.5:8000", "generation": 1, "index": 17,
        "reason": "new", "peer": "10.0.0.9",
    }  # fmt: skip


def test_what_is_beyond_so_many_in_a_second_is_summed_up_at_its_end() -> None:
    async def story(loop: TimeTravel) -> None:
        kept = RecordingOutput()
        log = a_log(kept)
        for _ in range(MOST_EACH):
            log.note(a_change(kind="expired"))
        for service_name, times in [("few", 2), ("users", 90), ("timelines", 5)]:
            for _ in range(times):
                log.note(a_change(service_name, kind="expired"))
        log.note(a_change())
        assert len(kept.entries) == MOST_EACH + 1, "a mass of one kind does not hide another"

        await asyncio.sleep(SPAN)
        entry = kept.entries[-1]
        assert entry.message == "expired count=97 more in 1.0 s services=3 users=90 timelines=5 few=2"
        assert (entry.level, entry.event) == (logging.INFO, "expired")
        assert entry.fields == {"count": 97, "services": 3, "service": ["users", "timelines", "few"]}
        log.note(a_change(kind="expired"))
        assert len(kept.entries) == MOST_EACH + 3, "and then they are told one by one again"
        await asyncio.sleep(5 * SPAN)
        assert len(kept.entries) == MOST_EACH + 3, "a second with nothing more has no sum"

    travel(story)


def test_a_sum_names_the_most_concerned_services_and_counts_the_others() -> None:
    async def story(loop: TimeTravel) -> None:
        kept = RecordingOutput()
        log = ChangeLog(kept, Gate(kept, most=1), "info")
        for n in range(25):
            for _ in range(n):
                log.note(a_change(f"s{n:02}"))
        log.flush()
        entry = kept.entries[-1]
        assert "services=23 s24=24 s23=23 " in entry.message
        assert entry.message.endswith(" s05=5 and 3 others")
        assert entry.fields["service"] == [f"s{n:02}" for n in range(24, 4, -1)]

    travel(story)


def test_the_sum_does_not_wait_where_the_process_ends() -> None:
    async def story(loop: TimeTravel) -> None:
        kept = RecordingOutput()
        log = ChangeLog(kept, Gate(kept, most=1), "info")
        for _ in range(3):
            log.note(a_change())
        log.close()
        assert kept.messages[-1].startswith("registered count=2 more in ")
        assert kept.is_closed
        await asyncio.sleep(2 * SPAN)
        assert len(kept.entries) == 2, "nor is it told twice"

    travel(story)


def test_other_events_in_masses_are_summed_up_too() -> None:
    async def story(loop: TimeTravel) -> None:
        kept = RecordingOutput()
        handler = LogHandler(kept, Gate(kept, most=2))
        for n in range(10):
            more = {"event": "failed"} if n % 2 else {}
            handler.handle(logging.makeLogRecord({"msg": f"m{n}", "levelno": logging.ERROR, **more}))
        assert kept.messages == ["m0", "m1", "m2", "m3", "m4", "m6", "m8"], "what is no event is told always"
        await asyncio.sleep(SPAN)
        entry = kept.entries[-1]
        assert (entry.level, entry.event, entry.fields) == (logging.ERROR, "failed", {"count": 3})

    travel(story)


def test_where_there_is_no_loop_nothing_is_summed_up() -> None:
    kept = RecordingOutput()
    log = a_log(kept)
    for _ in range(3 * MOST_EACH):
        log.note(a_change())

    assert len(kept.entries) == 3 * MOST_EACH
