"""The client's talk, word by word: no socket, no clock, no task."""

import json
import random
import uuid
from typing import Any

import pytest

from registryd.client.errors import RegistrationRefused
from registryd.client.registries import Registries
from registryd.client.session import (
    AGAIN,
    FIRST_RETRY,
    LONGEST_ANSWER,
    LONGEST_RETRY,
    Phase,
    Request,
    Session,
)

URL = "http://localhost:8006"
INSTANCE = {"service_name": "users", "base_url": "http://10.0.0.5:8000"}


def a_session(*urls: str, **more: object) -> Session:
    return Session(Registries(urls or (URL,)), INSTANCE | more, random.Random(7))


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
        (200, b'{"ttl": "abc"}'),
        (200, b'{"ttl": null}'),
        (200, b'{"ttl": true}'),
        (200, b'{"ttl": 0}'),
        (200, b'{"ttl": -5}'),
        (200, b'{"ttl": 1e999}'),
        (200, b'{"ttl": NaN}'),
        (200, b"[" * 100_000),
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


@pytest.mark.parametrize("status", [429, 503])
def test_a_registry_without_room_is_asked_again_within_the_second_that_it_waits_for_us(status: int) -> None:
    session = a_session(ttl=3600)
    session.answered(200, registered(ttl=3600))
    for _ in range(20):
        assert not session.answered(status, problem("too_many_connections"))
        assert 0 < session.wait <= AGAIN
        assert session.phase is Phase.IN


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
    assert session.next_request().url.startswith("http://a:1/heartbeat/"), "and the one that answers is stayed with"


@pytest.mark.parametrize("status", [400, 401, 403, 413, 414, 431])
def test_a_registration_that_is_wrong_is_refused_with_the_registrys_words(status: int) -> None:
    session = a_session()
    with pytest.raises(RegistrationRefused, match="the registry refuses this registration: bad name"):
        session.answered(status, problem("invalid_field", "bad name"))

    assert session.wait > 0, "should the caller go on, it is not at full speed"


def test_someone_elses_400_is_no_refusal() -> None:
    assert not a_session().answered(400, b"<h1>Bad Request</h1>")


@pytest.mark.parametrize(("ttl", "longest"), [(86400.0, LONGEST_RETRY), (3.0, 1.0), (1.0, FIRST_RETRY)])
def test_a_registry_that_comes_back_is_found_soon_however_long_the_lease(ttl: float, longest: float) -> None:
    session = a_session(ttl=ttl)
    for _ in range(50):
        session.failed()

    assert longest / 2 <= session.wait <= longest


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), "x"])
def test_a_ttl_that_cannot_be_does_not_make_it_hurry(ttl: object) -> None:
    session = a_session(ttl=ttl)
    session.failed()

    assert session.wait >= FIRST_RETRY / 2


@pytest.mark.parametrize(("ttl", "timeout"), [(30.0, LONGEST_ANSWER), (3.0, 1.0), (1.0, 0.5)])
def test_an_answer_may_take_no_longer_than_a_third_of_a_short_lease(ttl: float, timeout: float) -> None:
    assert a_session(ttl=ttl).timeout == timeout
    assert LONGEST_ANSWER == 3, "as the README says"


def test_what_one_registry_has_said_means_nothing_to_another() -> None:
    session = a_session("http://a:1", "http://b:2", instance_id="users-1")
    session.answered(200, registered(generation=7))
    session.next_request()
    session.failed()

    request = session.next_request()
    assert (session.phase, request.url) == (Phase.OUT, "http://b:2/register")
    assert session.wait > 0


def disputed(**more: object) -> Session:
    session = a_session(**more)
    session.answered(200, registered())
    assert session.answered(409, problem("stale_generation"))
    assert (session.phase, session.wait) == (Phase.DISPUTED, 0)
    assert session.next_request() == Request("GET", f"{URL}/instances/{session.instance_id}", b"")
    return session


def test_a_stale_heartbeat_whose_new_life_is_ours_registers_again() -> None:
    session = disputed(instance_id="users-1")
    assert session.answered(200, registered(generation=2, **INSTANCE))

    assert (session.phase, session.next_request().url) == (Phase.OUT, f"{URL}/register")


def test_a_stale_heartbeat_whose_new_life_is_anothers_is_the_end() -> None:
    session = disputed(instance_id="users-1")
    assert session.answered(200, registered(generation=2, **(INSTANCE | {"base_url": "http://10.0.0.6:8000"})))

    assert session.phase is Phase.TAKEN_OVER


def test_a_stale_heartbeat_whose_new_life_is_over_registers_again() -> None:
    session = disputed()
    assert session.answered(404, problem("unknown_instance"))

    assert session.phase is Phase.OUT


def test_the_farewell_ends_this_life_and_no_later_one() -> None:
    session = a_session(instance_id="a&b+c")
    assert session.farewell() == Request("DELETE", f"{URL}/deregister/a%26b%2Bc", b"")

    session.answered(200, registered(generation=3))
    assert session.farewell() == Request("DELETE", f"{URL}/deregister/a%26b%2Bc?generation=3", b"")


def test_there_is_something_to_take_off_where_a_registration_may_have_arrived() -> None:
    session = a_session(instance_id="a")
    assert not session.may_be_listed
    session.next_request()
    session.failed()
    assert session.may_be_listed, "it may have arrived"
    session.answered(200, registered())
    assert session.may_be_listed
    session.next_request()
    session.answered(404, problem("unknown_instance"))
    assert not session.may_be_listed, "who is there under this id by now is another"
    session.next_request()
    assert session.may_be_listed
