"""Watching and waiting over losses, with a registry that says what a test has it say."""

from collections.abc import Callable
from contextlib import closing

import pytest
from scripted import Answer, Asked, Scripted, answered, problem
from support import ManualClock

from registryd.client.errors import Refused, RegistryUnreachable
from registryd.client.events import Event
from registryd.client.http import Client
from registryd.client.registries import Registries
from registryd.ctl.waiting import TooLate, wait_for_instances, wait_until_forgotten
from registryd.ctl.watching import LONGEST_PAUSE, Watch, instances_of

NOBODY = "http://127.0.0.1:1"
INSTANCE = {"instance_id": "users-1", "service_name": "users", "status": "up"}
SNAPSHOT = b'event: snapshot\nid: 5\ndata: {"instances": [], "count": 0}\n\n'
UPDATED = b'event: updated\nid: 6\ndata: {"instance_id": "users-1"}\n\n'


def stream(*events: bytes) -> Answer:
    return 200, "text/event-stream", b"".join(events)


class Told:
    """What a watch says, and how long it waits."""

    def __init__(self, client: Client) -> None:
        self.said: list[object] = []
        self.pauses: list[float] = []
        self.watch = Watch(client, ["users"], lost=self.said.append, found=self.said.append, sleep=self.pauses.append)


def test_it_survives_a_registry_that_is_away_and_resumes() -> None:
    answers = [stream(b": hello\n\n", SNAPSHOT), (200, "text/html", b"hello"), stream(b": hello\n\n", UPDATED)]
    with closing(Scripted(lambda asked: answers.pop(0))) as registry:
        told = Told(Client(Registries([registry.url])))
        events = told.watch.events()
        assert [next(events).index, next(events).index] == [5, 6]
        asked = [asked.headers.get("last-event-id") for asked in registry.asked]

    assert asked == [None, "5", "5"]
    assert told.said == ["it has ended the watch", True]
    assert told.pauses == [0.25, 0.5]


def test_a_snapshot_says_that_something_may_have_been_missed() -> None:
    answers = [stream(SNAPSHOT), stream(SNAPSHOT)]
    with closing(Scripted(lambda asked: answers.pop(0))) as registry:
        told = Told(Client(Registries([registry.url])))
        events = told.watch.events()
        assert [next(events).kind, next(events).kind] == ["snapshot", "snapshot"]

    assert told.said[1] is False


def test_another_registry_is_not_told_an_index_that_is_not_its_own() -> None:
    first, second = Scripted(lambda asked: stream(SNAPSHOT)), Scripted(lambda asked: stream(SNAPSHOT))
    with closing(second):
        with closing(first):
            told = Told(Client(Registries([first.url, second.url])))
            events = told.watch.events()
            next(events)
        assert next(events).kind == "snapshot"

    assert [asked.headers.get("last-event-id") for asked in second.asked] == [None]


def test_pauses_grow_and_no_more_than_so_far() -> None:
    with closing(Scripted(lambda asked: stream(SNAPSHOT))) as registry:
        client = Client(Registries([registry.url]))
        told = Told(client)
        events = told.watch.events()
        next(events)

    class Enough(Exception):
        pass

    def sleep(seconds: float) -> None:
        told.pauses.append(seconds)
        if len(told.pauses) == 8:
            raise Enough

    told.watch._sleep = sleep
    with pytest.raises(Enough):
        next(events)
    assert told.pauses == [0.25, 0.5, 1.0, 2.0, 4.0, *[LONGEST_PAUSE] * 3]


def test_without_a_registry_from_the_first_it_says_so() -> None:
    with pytest.raises(RegistryUnreachable, match=f"no answer from the registry at {NOBODY}: .*; no answer"):
        next(Told(Client(Registries([NOBODY, NOBODY]))).watch.events())


LIST = {"service_name": "users", "instances": [{"instance_id": "users-1"}], "count": 1}


def waited(answer: Callable[[Asked], Answer], clock: ManualClock, timeout: float = 100.0) -> object:
    with closing(Scripted(answer)) as registry:
        client = Client(Registries([registry.url]))
        return wait_for_instances(
            client, "users", [("tag", "blue")], 2, timeout, clock=clock.now, sleep=clock.advance
        )  # fmt: skip


def test_a_registry_that_is_away_is_waited_for(clock: ManualClock) -> None:
    answers = [problem(503, "recovering"), (502, "text/html", b"bad gateway"), problem(408, "too_few"), answered(LIST)]

    assert waited(lambda asked: answers.pop(0), clock) == LIST


def test_it_asks_for_what_is_left_of_the_time_and_no_more_than_a_minute(clock: ManualClock) -> None:
    asked_for = []

    def answer(asked: Asked) -> Answer:
        asked_for.append(asked.path)
        clock.advance(60.0)
        return problem(408, "too_few_instances")

    with pytest.raises(TooLate):
        waited(answer, clock)
    assert asked_for == [
        "/services/users?tag=blue&min=2&wait=60.000",
        "/services/users?tag=blue&min=2&wait=40.000",
    ]


def test_a_registry_that_never_comes_is_what_was_wrong(clock: ManualClock) -> None:
    with pytest.raises(RegistryUnreachable, match="no answer"):
        wait_for_instances(
            Client(Registries([NOBODY])), "users", [], 1, 10.0, clock=clock.now, sleep=clock.advance
        )  # fmt: skip
    assert clock.now() == pytest.approx(1010.0)


def test_what_would_be_refused_again_is_not_waited_for(clock: ManualClock) -> None:
    with pytest.raises(Refused, match="so it is"):
        waited(lambda asked: problem(403, "forbidden"), clock)


def test_it_is_forgotten_when_that_has_stood_still(clock: ManualClock) -> None:
    seen = ["a", "b", "b", "c"]
    wait_until_forgotten(
        lambda: seen.pop(0) if len(seen) > 1 else "c", 2.0, 60.0, clock=clock.now, sleep=clock.advance
    )  # fmt: skip

    assert clock.now() == 1000.0 + 3 * 0.5 + 3.0


def test_what_goes_on_being_handed_out_is_too_late(clock: ManualClock) -> None:
    with pytest.raises(TooLate):
        wait_until_forgotten(clock.now, 2.0, 60.0, clock=clock.now, sleep=clock.advance)
    assert clock.now() == 1060.0


@pytest.mark.parametrize(
    ("event", "ids"),
    [
        (Event("snapshot", 1, {"instances": [INSTANCE, {"instance_id": "half"}, 3], "count": 3}), ["users-1"]),
        (Event("updated", 2, INSTANCE), ["users-1"]),
        (Event("of a later registry", 3, {"news": True}), []),
        (Event("of a later registry", 3, ["news"]), []),
    ],
)
def test_of_events_only_what_is_known_is_shown(event: Event, ids: list[str]) -> None:
    assert [instance["instance_id"] for instance in instances_of(event)] == ids
