"""The history: the last events of each instance, bounded for each and in all."""

import msgspec
import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.core.history import EVENTS_EACH, History
from registryd.core.model import Change, bulk


def a_change(
    instance_id: str, index: int, service_name: str = "users", metadata: dict[str, str] | None = None
) -> Change:
    (change,) = new_state().decide(a_registration(service_name, instance_id, metadata=metadata), NOW, WALL)
    return msgspec.structs.replace(change, index=index)


def indexes(history: History, instance_id: str) -> list[int]:
    return [change.index for change in history.of(instance_id)]


def test_the_last_events_of_an_instance_are_kept() -> None:
    history = History()
    for index in range(50):
        history.note(a_change("a", index))

    assert indexes(history, "a") == list(range(50 - EVENTS_EACH, 50))
    assert history.of("nobody") == []


def test_all_events_together_are_bounded() -> None:
    history = History(events_in_all=10)
    for index in range(1000):
        history.note(a_change(f"i{index % 37}", index))
    kept = [index for n in range(37) for index in indexes(history, f"i{n}")]

    assert sorted(kept) == list(range(990, 1000))
    assert len(history._by_id) == 10


def test_one_busy_instance_does_not_push_the_others_out() -> None:
    history = History(events_in_all=30)
    history.note(a_change("quiet", 0))
    for index in range(1, 1000):
        history.note(a_change("busy", index))

    assert indexes(history, "quiet") == [0]
    assert indexes(history, "busy") == list(range(980, 1000))


def test_less_is_kept_where_it_takes_much(monkeypatch: pytest.MonkeyPatch) -> None:
    history = History()
    much = {"k": "v" * 10_000}
    monkeypatch.setattr("registryd.core.history.MOST_BULK", 10 * bulk(a_change("a", 0, metadata=much).instance))
    for index in range(100):
        history.note(a_change(f"i{index % 7}", index, metadata=much))
    kept = [index for n in range(7) for index in indexes(history, f"i{n}")]

    assert 5 < len(kept) <= 10
    assert max(kept) == 99
    for index in range(100, 200):
        history.note(a_change("busy", index))
    assert len(indexes(history, "busy")) == EVENTS_EACH
    assert history._bulk == sum(bulk(c.instance) for changes in history._by_id.values() for c in changes)


def test_instances_are_found_by_the_service_of_their_last_event() -> None:
    history = History()
    history.note(a_change("a", 1, "users"))
    history.note(a_change("b", 2, "users"))
    history.note(a_change("b", 3, "timelines"))

    assert history.of_service("users") == ["a"]
    assert history.of_service("timelines") == ["b"]
