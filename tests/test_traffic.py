"""Plain numbers: histograms, and the answers of hot calls."""

from registryd.histogram import Histogram
from registryd.traffic import METHODS, NO_METHOD, NO_ROUTE, Asked, Traffic


def test_a_bound_belongs_to_what_is_below_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.0, 1.0, 1.5, 2.0, 2.5, 100.0):
        histogram.note(seconds)

    assert histogram.counts == [2, 2, 2]
    assert histogram.seconds == 107.0


def test_an_answer_counts_by_method_route_and_status() -> None:
    traffic = Traffic()
    for status in (200, 200, 404):
        traffic.note("GET", "/status", status, 0.5)
    traffic.note("BREW", NO_ROUTE, 501, None)

    assert {asked: len(answers) for asked, answers in traffic} == {
        Asked("GET", "/status", 200): 2,
        Asked("GET", "/status", 404): 1,
        Asked(NO_METHOD, NO_ROUTE, 501): 1,
    }
    assert [sum(answers.durations.counts) for _, answers in traffic] == [2, 1, 0]
    assert NO_METHOD not in METHODS


def test_methods_that_nobody_knows_are_one() -> None:
    traffic = Traffic()
    for method in ("BREW", "brew", "\x00"):
        traffic.note(method, NO_ROUTE, 501, None)

    assert [(asked.method, len(answers)) for asked, answers in traffic] == [(NO_METHOD, 3)]


def test_one_of_the_hot_calls_stands_for_those_since_the_last() -> None:
    traffic, count = Traffic(), 0
    answers = traffic.answers("GET", "/services/{service_name}", 200)
    hot = answers.hot(lambda: count)
    assert list(traffic) == [], "nothing has been asked yet"

    count = 10
    hot.sample(0.5)
    count = 15
    hot.sample(2.0)
    count = 18
    answers.note(1.0)

    assert len(answers) == 19
    assert sum(answers.durations.counts) == 16
    assert answers.durations.seconds == 10 * 0.5 + 5 * 2.0 + 1.0
