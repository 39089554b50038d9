"""The client's talk, word by word: no socket, no clock, no task."""

import json
import random
import uuid
from typing import Any

import pytest

from registryd.client.session import FIRST_RETRY, Phase, RegistrationRefused, Request, Session

URL = "http://localhost:8006"
INSTANCE = {"service_name": "users", "base_url": "http://10.0.0.5:8000"}


def a_session(*urls: str, **more: object) -> Session:
    return Session(urls or (URL,), INSTANCE | more, random.Random(7))


def problem(code: str, detail: str = "so it is") -> bytes:
    return json.dumps({"code": code, "detail": detail}).encode()


def registered(**more: object) -> bytes:
    return json.dumps({"ttl": 30.0, "generation": 1} | more).encode()


def body_of(request: Request) -> Any:
    return json.loads(request.body)


def test_it_begins_with_a_registration_under_an_id_of_its_own() -> None:
    session = a_session()
    request = session.next_request()

    assert (request.method, request.url) == ("POST", f"{URL}/register")
    assert body_of(request) == INSTANCE | {"instance_id": session.instance_id}
    assert str(uuid.UUID(session.instance_id)) == session.instance_id
    assert uuid.UUID(session.instance_id).version == 4
    assert session.wait == 0


def test_what_is_not_given_is_not_sent() -> None:
    assert body_of(a_session(ttl=None, tags=None, weight=0).next_request()).keys() == {
        "service_name", "base_url", "instance_id", "weight",
    }  # fmt: skip


def test_it_sends_a_heartbeat_every_third_of_the_lease_with_jitter() -> None:
    session = a_session()
    assert session.answered(200, registered(ttl=30.0, generation=4))

    waits = []
    for _ in range(200):
        request = session.next_request()
        assert request == Request("POST", f"{URL}/heartbeat/{session.instance_id}?generation=4", b"")
        assert session.answered(200, b'{"ttl": 30.0}')
        waits.append(session.wait)
    assert all(9 <= wait <= 11 for wait in waits)
    assert len(set(waits)) > 100


def test_the_lease_is_as_long_as_the_registry_says() -> None:
    session = a_session(ttl=60)
    session.answered(200, registered(ttl=3.0))

    assert 0.9 <= session.wait <= 1.1


def test_a_forgotten_instance_registers_again_at_once_under_the_same_id() -> None:
    session = a_session()
    session.answered(200, registered())
    session.next_request()
    assert session.answered(404, problem("unknown_instance"))

    assert (session.phase, session.wait) == (Phase.OUT, 0)
    assert body_of(session.next_request())["instance_id"] == session.instance_id


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<h1>Not Found</h1>"),
        (502, b""),
        (503, problem("store_unavailable")),
        (429, problem("limit_reached")),
        (200, b"<h1>Welcome</h1>"),
        (200, b"[]"),
        (200, b'{"some": "thing"}'),
        (200, b"\xff"),
        (302, b""),
    ],
)
def test_an_answer_that_makes_no_sense_is_no_answer(status: int, body: bytes) -> None:
    session = a_session()
    session.answered(200, registered())
    session.next_request()

    assert not session.answered(status, body)
    assert session.phase is Phase.IN, "the lease may well still run"
    assert 0 < session.wait <= FIRST_RETRY


def test_it_backs_off_up_to_a_third_of_the_lease() -> None:
    session = a_session()
    waits = []
    for _ in range(50):
        session.next_request()
        session.failed()
        waits.append(session.wait)

    for n, wait in enumerate(waits):
        longest = min(10.0, FIRST_RETRY * 2**n)
        assert longest / 2 <= wait <= longest


def test_success_ends_the_back_off() -> None:
    session = a_session()
    for _ in range(10):
        session.failed()
    session.answered(200, registered())
    session.failed()

    assert session.wait <= FIRST_RETRY


def test_several_registries_are_tried_in_turn() -> None:
    session = a_session("http://a:1/", "http://b:2")
    tried = []
    for _ in range(4):
        tried.append(session.next_request().url)
        session.failed()
    assert tried == ["http://a:1/register", "http://b:2/register"] * 2

    session.answered(200, registered())
    assert session.next_request().url.startswith("http://a:1/heartbeat/")


@pytest.mark.parametrize("status", [400, 413, 414, 431])
def test_a_registration_that_is_wrong_is_refused_with_the_registrys_words(status: int) -> None:
    session = a_session()
    with pytest.raises(RegistrationRefused, match="the registry refuses this registration: bad name"):
        session.answered(status, problem("invalid_field", "bad name"))

    assert session.wait > 0, "should the caller go on, it is not at full speed"


def test_someone_elses_400_is_no_refusal() -> None:
    assert not a_session().answered(400, b"<h1>Bad Request</h1>")


def test_a_stale_generation_of_an_id_we_made_up_registers_again() -> None:
    session = a_session()
    session.answered(200, registered())
    assert session.answered(409, problem("stale_generation"))

    assert session.phase is Phase.OUT


def test_a_stale_generation_of_an_id_the_caller_chose_is_the_end() -> None:
    session = a_session(instance_id="users-1")
    session.answered(200, registered())
    assert session.answered(409, problem("stale_generation"))

    assert session.phase is Phase.TAKEN_OVER


def test_the_farewell_ends_this_life_and_no_later_one() -> None:
    session = a_session(instance_id="a&b+c")
    assert session.farewell() == Request("DELETE", f"{URL}/deregister/a%26b%2Bc", b"")

    session.answered(200, registered(generation=3))
    assert session.farewell() == Request("DELETE", f"{URL}/deregister/a%26b%2Bc?generation=3", b"")
