"""The parts of the dashboard that can be looked at by themselves, in the browser that runs them."""

from typing import Any

import pytest
from page import Page
from process import RunningDaemon

pytestmark = [pytest.mark.e2e, pytest.mark.browser]


@pytest.fixture
def loaded(page: Page, daemon: RunningDaemon) -> Page:
    page.open(daemon.url)
    return page


STREAM = (
    "\ufeffevent: a\nid: 1\ndata: one\n\n: a comment\r\n\r\n"
    "data: two\rdata\rdata:  three\r\r\nid: x\0y\ndata: {}\n\nid: 9\n\ndata: lost"
)
EVENTS = [
    {"type": "a", "data": "one", "id": "1"},
    {"type": "message", "data": "two\n\n three", "id": "1"},
    {"type": "message", "data": "{}", "id": "1"},
]


def test_events_are_read_however_they_are_cut(loaded: Page) -> None:
    read: list[Any] = loaded.run_module(
        """
        const { EventParser } = await load("sse.js");
        const [text] = given;
        const whole = new EventParser().push(text);
        const others = [];
        for (let at = 0; at <= text.length; at += 1) {
          const parser = new EventParser();
          others.push([...parser.push(text.slice(0, at)), ...parser.push(""), ...parser.push(text.slice(at))]);
        }
        const parser = new EventParser();
        others.push(text.split("").flatMap((one) => parser.push(one)));
        return [whole, ...others];
        """,
        STREAM,
    )

    assert len(read) == len(STREAM) + 3
    for events in read:
        assert events == EVENTS


def test_the_copy_follows_every_change(loaded: Page) -> None:
    told = loaded.run_module(
        """
        const { Model, countsOf, sortedOf } = await load("model.js");
        const model = new Model();
        const one = (id, service, status = "up") => ({ instance_id: id, service_name: service, status });
        model.replace([one("a10", "a"), one("a9", "a"), one("b1", "b", "down")]);
        const order = sortedOf(model.services.get("a")).map((entry) => entry.id);
        const moved = model.apply("registered", one("a9", "b"));
        const late = model.apply("deregistered", one("a9", "a"));
        const changed = model.apply("updated", one("b1", "b", "up"));
        const gone = model.apply("expired", one("a10", "a"));
        const unknown = model.apply("expired", one("z", "z"));
        return { order, moved, late, changed, gone, unknown, services: [...model.services.keys()],
                 counts: countsOf(model.services.get("b")), ids: [...model.instances.keys()] };
        """
    )

    assert told["order"] == ["a9", "a10"]
    assert told["moved"] == {"before": "up", "after": "up"}
    assert told["changed"] == {"before": "down", "after": "up"}
    assert told["gone"] == {"before": "up", "after": None}
    assert told["unknown"] == {"before": None, "after": None}
    assert (told["services"], sorted(told["ids"])) == (["b"], ["a9", "b1"]), "it is of b now, whatever comes late of a"
    assert (told["counts"]["all"], told["counts"]["up"]) == (2, 2)
