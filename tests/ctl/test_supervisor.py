"""The life of a command under `run`, moment by moment."""

import signal
from signal import SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGWINCH

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from registryd.ctl.supervisor import FAREWELL, STOPPING, Exit, Leave, Pass, Phase, Supervisor


def test_it_is_off_the_list_before_it_is_told_to_stop() -> None:
    command = Supervisor(grace=0.0)
    assert command.signalled(SIGTERM, 10.0) == [Leave()]
    assert command.left(10.1, was_listed=True) == [Pass(SIGTERM)]
    assert command.wait(10.1) is None

    assert command.ended(0, 12.0) == [Exit(0)]


def test_it_serves_on_through_the_grace() -> None:
    command = Supervisor(grace=5.0)
    command.signalled(SIGTERM, 10.0)
    assert command.left(11.0, was_listed=True) == []
    assert command.wait(12.0) == 4.0
    assert command.due(15.9) == []

    assert command.due(16.0) == [Pass(SIGTERM)]


def test_there_is_no_grace_for_what_nobody_has_been_given() -> None:
    command = Supervisor(grace=5.0)
    command.signalled(SIGTERM, 10.0)

    assert command.left(10.0, was_listed=False) == [Pass(SIGTERM)]


def test_a_registry_that_does_not_answer_holds_nothing_up() -> None:
    command = Supervisor(grace=0.0)
    command.signalled(SIGINT, 10.0)
    assert command.wait(10.0) == FAREWELL
    assert command.due(10.0 + FAREWELL) == [Pass(SIGINT)]

    assert command.ended(3, 10.0 + FAREWELL) == [Exit(3)]


def test_nor_what_ends_by_itself() -> None:
    command = Supervisor(grace=0.0)
    assert command.ended(3, 10.0) == [Leave()]
    assert command.wait(11.0) == FAREWELL - 1.0

    assert command.due(10.0 + FAREWELL) == [Exit(3)]


def test_a_second_signal_is_passed_on_at_once() -> None:
    command = Supervisor(grace=60.0)
    command.signalled(SIGTERM, 10.0)
    assert command.signalled(SIGINT, 10.5) == [Pass(SIGINT)]
    assert command.left(11.0, was_listed=True) == []
    assert command.wait(11.0) is None

    assert command.signalled(SIGTERM, 12.0) == [Pass(SIGTERM)]


@pytest.mark.parametrize("number", [SIGHUP, SIGUSR1, SIGWINCH])
def test_other_signals_are_passed_on_and_change_nothing(number: signal.Signals) -> None:
    command = Supervisor(grace=0.0)

    assert command.signalled(number, 10.0) == [Pass(number)]
    assert command.phase is Phase.RUNNING


def test_what_ends_by_itself_is_taken_off_the_list_and_its_status_given_on() -> None:
    command = Supervisor(grace=60.0)
    assert command.ended(7, 10.0) == [Leave()]
    assert command.signalled(SIGUSR1, 10.0) == []

    assert command.left(10.1, was_listed=True) == [Exit(7)]


def test_who_is_told_twice_does_not_wait_for_the_farewell_of_what_has_ended() -> None:
    command = Supervisor(grace=0.0)
    command.ended(-signal.SIGSEGV, 10.0)

    assert command.signalled(SIGTERM, 10.1) == [Exit(-signal.SIGSEGV)]


def test_what_ends_in_its_grace_is_not_sent_anything() -> None:
    command = Supervisor(grace=60.0)
    command.signalled(SIGTERM, 10.0)
    command.left(10.1, was_listed=True)

    assert command.ended(0, 11.0) == [Exit(0)]


def test_what_ends_while_it_is_being_taken_off_the_list_waits_for_that() -> None:
    command = Supervisor(grace=60.0)
    command.signalled(SIGTERM, 10.0)
    assert command.ended(0, 10.1) == []

    assert command.left(10.2, was_listed=True) == [Exit(0)]


def test_in_a_terminal_ctrl_c_has_come_to_it_already() -> None:
    command = Supervisor(grace=60.0, shares_terminal=True)
    assert command.signalled(SIGINT, 10.0) == [Leave()]
    assert command.left(10.1, was_listed=True) == []
    assert command.signalled(SIGINT, 10.2) == []

    assert command.signalled(SIGTERM, 10.3) == [Pass(SIGTERM)]


EVENTS = st.lists(st.sampled_from(["SIGTERM", "SIGINT", "SIGUSR1", "left", "time"]), max_size=8)


@settings(max_examples=60)
@given(EVENTS, st.sampled_from([0.0, 3.0, 100.0]))
def test_whatever_happens_it_is_told_to_leave_once_and_before_it_is_told_to_stop(
    events: list[str], grace: float
) -> None:
    command, now, told = Supervisor(grace), 0.0, []
    for event in events:
        if event == "time":
            now += command.wait(now) or 1.0
            told += command.due(now)
        elif event != "left":
            told += command.signalled(signal.Signals[event], now)
        elif Leave() in told:
            told += command.left(now, was_listed=True)
    told += command.ended(0, now)
    while Exit(0) not in told:
        now += command.wait(now) or 0.0
        told += command.due(now)

    assert told.count(Leave()) == 1
    assert not any(isinstance(it, Pass) and it.number in STOPPING for it in told[: told.index(Leave())])
    assert told[-1] == Exit(0)
