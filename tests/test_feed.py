"""The feed: one index for all and one for each service, and neither ever goes back."""

import msgspec
import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.core.model import Change, bulk
from registryd.feed import Feed


def a_change(service_name: str, index: int, metadata: dict[str, str] | None = None) -> Change:
    (change,) = new_state().decide(a_registration(service_name, metadata=metadata), NOW, WALL)
    return msgspec.structs.replace(change, index=index)


def test_an_index_that_goes_back_is_a_bug() -> None:
    feed = Feed(10)

    with pytest.raises(AssertionError, match="never goes back"):
        feed.publish([a_change("users", 10)])


def test_fewer_changes_are_kept_where_they_take_much(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed(10)
    much = {"k": "v" * 10_000}
    monkeypatch.setattr("registryd.feed.KEPT_BULK", 10 * bulk(a_change("users", 0, metadata=much).instance))
    for index in range(11, 111):
        feed.publish([a_change("users", index, metadata=much)])

    assert len(feed._changes) == len(feed._changes_of["users"]) == 10
    assert feed.knows_since(["users"], 100)
    assert not feed.knows_since(["users"], 99)


def test_services_that_are_forgotten_have_an_index_that_is_not_too_low() -> None:
    feed = Feed(10, kept_services=2)
    last = {}
    for index, name in enumerate(["a", "b", "c", "a", "d", "e", "b"], start=11):
        before = {other: feed.index_of(other) for other in "abcdef"}
        feed.publish([a_change(name, index)])
        last[name] = index

        assert feed.index == index
        assert feed.index_of(name) == index
        for other in "abcdef":
            assert feed.index_of(other) >= last.get(other, 10)
            assert feed.index_of(other) >= before[other], "never goes back"
    assert len(feed._by_service) == 2
