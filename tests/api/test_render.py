"""Rendered answers: what is kept is what would be rendered anew, after any sequence of commands."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from machine import CoreAgainstModel
from support import NOW, WALL, a_registration, new_state

from registryd.api import render
from registryd.core.model import Report, Update


class RenderedAgainstFresh(CoreAgainstModel):
    """Looks at every list after every step, and at some of them twice."""

    @rule(few=st.sampled_from([0, 2, 100]))
    def keep_more_or_fewer(self, few: int) -> None:
        render.FEW = few

    @invariant()
    def what_is_kept_is_what_would_be_rendered(self) -> None:
        for name in ("users", "timelines", "nobody"):
            fresh = render.json_bytes(render.service(name, [x for x in self.state.leases(name) if x.status == "up"]))
            assert render.listing(name, self.state.service(name)) == fresh
            assert render.listing(name, self.state.service(name)) == fresh

    def teardown(self) -> None:
        super().teardown()
        render.FEW = 32


TestRenderedAgainstFresh = RenderedAgainstFresh.TestCase
TestRenderedAgainstFresh.settings = settings(max_examples=100, stateful_step_count=30)


def test_a_list_that_has_not_changed_is_not_rendered_again() -> None:
    state = new_state()
    for n in range(50):
        state.commit(state.decide(a_registration(instance_id=f"i{n}"), NOW, WALL), NOW, WALL)
    first = render.listing("users", state.service("users"))
    assert render.listing("users", state.service("users")) is first

    state.renew(state.lease("i7"), NOW + 0.1, WALL)
    assert render.listing("users", state.service("users")) is first, "nothing that is shown has changed"
    state.renew(state.lease("i7"), NOW + 1, WALL + 1)
    assert render.listing("users", state.service("users")) is not first


def test_what_is_kept_is_bounded_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "MOST_KEPT", 50_000)
    monkeypatch.setattr(render, "_kept", render._Kept())
    state = new_state()
    for n in range(50):
        for name in "abcdef":
            state.commit(state.decide(a_registration(name, f"{name}{n}"), NOW, WALL), NOW, WALL)
    fresh = {name: render.listing(name, state.service(name)) for name in "abcdef"}

    services = [state.service(name) for name in "abcdef"]
    assert [service is not None and service.rendered is not None for service in services] == [False] * 5 + [True]
    assert [lease.rendered is not None for lease in (state.lease("a1"), state.lease("f1"))] == [False, True]
    assert {name: render.listing(name, state.service(name)) for name in "abcdef"} == fresh


def test_a_listing_that_is_rendered_again_and_again_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "MOST_KEPT", 1000)
    monkeypatch.setattr(render, "_kept", render._Kept())
    state = new_state()
    for name in ("users", "timelines"):
        state.commit(state.decide(a_registration(name, name), NOW, WALL), NOW, WALL)
    for second in range(20):
        for name in ("users", "timelines"):
            service = state.service(name)
            render.listing(name, service)
            assert service is not None
            assert service.rendered is not None, "what was rendered just now is here"
        state.renew(state.lease("users"), NOW + second, WALL + second + 1)
    timelines = state.service("timelines")
    assert timelines is not None
    assert timelines.rendered is not None, "it was not pushed out by older listings of the other"
    assert len(render._kept._sizes) == 2


def test_in_a_long_list_only_what_has_changed_is_rendered_again() -> None:
    state = new_state()
    for n in range(50):
        state.commit(state.decide(a_registration(instance_id=f"i{n}"), NOW, WALL), NOW, WALL)
    render.listing("users", state.service("users"))
    kept = {n: state.lease(f"i{n}").rendered for n in range(50)}
    assert all(kept.values())

    state.commit(state.decide(Update("i7", Report(weight=9)), NOW, WALL), NOW, WALL)
    assert b'"weight":9' in render.listing("users", state.service("users"))
    assert [n for n in range(50) if state.lease(f"i{n}").rendered is not kept[n]] == [7]
