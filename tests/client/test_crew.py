"""Registrations that share heartbeats, word by word: no socket, no clock, no task."""

import json
import logging
import random
from collections.abc import Sequence

import pytest
from conftest import ExpectLog

from registryd.client.crew import MOST_IDS, OWN_EACH, Call, Crew
from registryd.client.errors import RegistrationRefused, TokenRefused
from registryd.client.registries import Registries
from registryd.client.session import Phase, Session

URL = "http://localhost:8006"
DICE = random.Random(7)


class Program:
    """Some registrations, the clock, and what the registry is asked."""

    def __init__(self, count: int, *urls: str, chosen: bool = False, ttl: float = 30.0) -> None:
        self.now = 1000.0
        self.crew = Crew(Registries(urls or (URL,)), random.Random(7))
        self.sessions = [self.add(f"users-{n}" if chosen else None, ttl) for n in range(count)]

    def add(self, instance_id: str | None = None, ttl: float = 30.0) -> Session:
        instance = {"service_name": "users", "base_url": "http://10.0.0.5:8000", "instance_id": instance_id}
        session = Session(self.crew.registries, instance, DICE)
        self.answer(self.crew.first_call(session), 200, ttl=ttl, generation=3)
        self.crew.join(session, self.now)
        return session

    def next(self) -> Call:
        self.now += self.crew.wait(self.now)
        return self.crew.next_call(self.now)

    def answer(self, call: Call, status: int = 200, **body: object) -> None:
        self.crew.answered(call, status, json.dumps(body).encode(), self.now)

    def renew(self, call: Call) -> None:
        answer = {"renewed": len(call.sessions), "unknown": []} if call.is_shared else {"ttl": 30.0}
        self.answer(call, **answer)


def ids(sessions: Sequence[Session]) -> set[str]:
    return {session.instance_id for session in sessions}


def test_several_share_one_heartbeat() -> None:
    program = Program(3)
    call = program.next()

    assert (call.request.method, call.request.url) == ("POST", f"{URL}/heartbeats")
    assert set(json.loads(call.request.body)["instance_ids"]) == ids(program.sessions)
    assert 1008.9 <= program.now <= 1010


def test_one_alone_sends_its_own_with_its_generation() -> None:
    program = Program(1)
    (session,) = program.sessions

    assert program.next().request.url == f"{URL}/heartbeat/{session.instance_id}?generation=3"


def test_they_go_on_together_each_third_of_the_lease() -> None:
    program = Program(5)
    program.renew(program.next())
    begun = program.now
    for _ in range(30):
        call = program.next()
        assert len(call.sessions) == 5
        program.renew(call)

    assert 30 * 9 <= program.now - begun <= 30 * 11


def test_one_with_a_long_lease_does_not_beat_as_often_as_one_with_a_short_one() -> None:
    program = Program(2, ttl=3)
    long = program.add(ttl=600)
    beats = 0
    while program.now < 1000 + 600:
        call = program.next()
        beats += long in call.sessions
        program.answer(call, 200, renewed=len(call.sessions), unknown=[])

    assert 3 <= beats <= 7


def test_who_is_unknown_registers_again_and_the_others_go_on() -> None:
    program = Program(3)
    forgotten = program.sessions[1]
    program.answer(program.next(), renewed=2, unknown=[forgotten.instance_id, 7])
    call = program.next()
    assert (call.request.url, call.sessions) == (f"{URL}/register", (forgotten,))

    program.answer(call, ttl=30.0, generation=1)
    assert program.crew.is_in(forgotten)
    assert len(program.next().sessions) == 3


def test_an_id_that_was_chosen_shows_its_generation_within_one_ttl() -> None:
    program = Program(4, chosen=True)
    last: dict[str, float] = dict.fromkeys(ids(program.sessions), program.now)
    for _ in range(60):
        call = program.next()
        if not call.is_shared:
            (session,) = call.sessions
            assert call.request.url == f"{URL}/heartbeat/{session.instance_id}?generation=3"
            assert program.now - last[session.instance_id] <= 30 * 1.1
            last[session.instance_id] = program.now
        program.renew(call)

    assert min(last.values()) > program.now - 40
    assert OWN_EACH == 3, "as the README says"


def test_an_id_of_ours_is_always_in_the_shared_one() -> None:
    program = Program(4)
    for _ in range(20):
        call = program.next()
        assert call.is_shared
        program.renew(call)


def test_one_that_is_taken_over_leaves_and_the_others_go_on(expect_log: ExpectLog) -> None:
    program = Program(2, chosen=True)
    for _ in range(2 * OWN_EACH):
        call = program.next()
        if call.sessions == (program.sessions[0],):
            break
        program.renew(call)
    program.answer(call, 409, code="stale_generation", detail="so it is")
    disputed = program.next()
    assert disputed.request.method == "GET"
    with expect_log("another process has taken over instance=users-0: no more heartbeats"):
        program.answer(disputed, ttl=30.0, service_name="users", base_url="http://10.0.0.6:8000")

    assert len(program.crew) == 1
    assert program.next().sessions == (program.sessions[1],)


def test_a_registry_that_is_gone_is_asked_by_one_and_not_by_each(expect_log: ExpectLog) -> None:
    program = Program(50)
    with expect_log(rf"no answer from the registry at {URL}: refused; trying again"):
        program.crew.failed(program.next(), OSError("refused"), program.now)
    begun, calls = program.now, 0
    while program.now < begun + 60:
        program.crew.failed(program.next(), OSError("refused"), program.now)
        calls += 1

    assert calls < 20
    assert not any(program.crew.is_in(session) for session in program.sessions)
    program.renew(program.next())
    assert all(program.crew.is_in(session) for session in program.sessions)


def test_they_go_to_the_next_registry_together_and_register_there(expect_log: ExpectLog) -> None:
    program = Program(3, "http://a:1", "http://b:2")
    with expect_log("no answer from the registry at http://a:1"):
        program.crew.failed(program.next(), OSError("refused"), program.now)
    asked = []
    for _ in range(3):
        call = program.next()
        asked.append(call.request.url)
        program.answer(call, ttl=30.0, generation=1)

    assert asked == ["http://b:2/register"] * 3
    assert program.next().request.url == "http://b:2/heartbeats"


def test_a_refusal_of_one_sends_nobody_to_another_registry() -> None:
    program = Program(2, "http://a:1", "http://b:2")
    refused = Session(program.crew.registries, {"service_name": "x"}, DICE)
    with pytest.raises(TokenRefused, match="the registry refuses this registration: no right") as caught:
        program.answer(program.crew.first_call(refused), 403, code="forbidden", detail="no right")

    assert isinstance(caught.value, RegistrationRefused)
    assert program.next().request.url == "http://a:1/heartbeats"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {}),
        (200, {"renewed": 1, "unknown": None}),
        (500, {"code": "internal_error"}),
        (401, {"code": "unauthorized"}),
    ],
)
def test_a_shared_answer_that_makes_no_sense_ends_no_registration(
    status: int, body: dict[str, object], expect_log: ExpectLog
) -> None:
    program = Program(2)
    with expect_log(rf"the registry at {URL} answers {status} to POST /heartbeats; trying again"):
        program.answer(program.next(), status, **body)

    assert [session.phase for session in program.sessions] == [Phase.IN] * 2
    assert program.crew.wait(program.now) <= 0.5


def test_more_than_fit_into_one_heartbeat_share_several() -> None:
    program = Program(MOST_IDS + 500)
    calls = [program.next()]
    program.renew(calls[0])
    calls.append(program.next())

    assert [len(call.sessions) for call in calls] == [MOST_IDS, 500]
    assert all(len(call.request.body) < 256 * 1024 for call in calls)


def test_trouble_and_its_end_are_said_once(expect_log: ExpectLog, caplog: pytest.LogCaptureFixture) -> None:
    program = Program(2)
    with expect_log("no answer"):
        for _ in range(5):
            program.crew.failed(program.next(), OSError("refused"), program.now)
    caplog.clear()
    program.renew(program.next())
    program.renew(program.next())

    assert len([record for record in caplog.records if record.levelno >= logging.INFO]) == 2
