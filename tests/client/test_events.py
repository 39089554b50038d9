"""Server-sent events from bytes."""

import pytest

from registryd.client.events import COMMENT, Event, Parser

STREAM = (
    b": resumed\n\n"
    b'event: snapshot\nid: 7\ndata: {"instances":[],"count":0}\n\n'
    b'event: registered\nid: 8\ndata: {"a":"\xc3\xa9"}\n\n'
    b": still here\n\n"
)
EVENTS = [COMMENT, Event("snapshot", 7, {"instances": [], "count": 0}), Event("registered", 8, {"a": "é"}), COMMENT]


@pytest.mark.parametrize("size", [1, 2, 7, len(STREAM)])
def test_events_are_the_same_however_the_bytes_come(size: int) -> None:
    parser = Parser()
    found = [event for at in range(0, len(STREAM), size) for event in parser.feed(STREAM[at : at + size])]

    assert found == EVENTS


def test_several_lines_of_data_are_one_value_and_unknown_fields_are_passed_over() -> None:
    assert list(Parser().feed(b"retry: 5\nid: 9\ndata: [1,\ndata: 2]\n\n")) == [Event("message", 9, [1, 2])]


@pytest.mark.parametrize("index", [b"", b"x", "²".encode(), b"-1", b"1" * 17])
def test_an_id_that_is_no_index_is_none(index: bytes) -> None:
    assert list(Parser().feed(b"id: " + index + b"\ndata: 1\n\n")) == [Event("message", None, 1)]


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: \xff\n\n", b"data: " + b"[" * 100_000 + b"\n\n"])
def test_what_is_no_event_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        list(Parser().feed(data))


def test_an_event_without_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registryd.client.events.MOST_BYTES", 100)
    with pytest.raises(ValueError, match="no end"):
        list(Parser().feed(b"data: " + b"x" * 100))
