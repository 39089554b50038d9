"""The feed: one index for all and one for each service, and neither ever goes back."""

import msgspec
import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.core.model import Change
from registryd.feed import Feed


def a_change(service_name: str, index: int) -> Change:
    (change,) = new_state().decide(a_registration(service_name), NOW, WALL)
    return msgspec.structs.replace(change, index=index)


def test_an_index_that_goes_back_is_a_bug() -> None:
    feed = Feed(10)

    with pytest.raises(AssertionError, match="never goes back"):
        feed.publish([a_change("users", 10)])


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
