"""The lease clock stands still while we are away; the loop's clock does not follow the wall clock."""

import asyncio
import time

import pytest
from conftest import ExpectLog
from tornado.ioloop import IOLoop

from registryd.clock import AWAY, LeaseClock, MonotonicIOLoop


class Hands:
    """A monotonic and a wall clock that a test sets."""

    def __init__(self) -> None:
        self.monotonic = 500.0
        self.wall = 1_705_314_600.9


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def lease_clock(hands: Hands) -> LeaseClock:
    return LeaseClock(lambda: hands.monotonic, lambda: hands.wall)


def test_it_runs_while_the_loop_comes_round(hands: Hands, lease_clock: LeaseClock) -> None:
    begun = lease_clock.now()
    for _ in range(100):
        hands.monotonic += AWAY
        lease_clock.beat()

    assert lease_clock.now() == begun + 100 * AWAY
    assert lease_clock.stalls == 0


def test_it_stands_still_while_nobody_asks(hands: Hands, lease_clock: LeaseClock, expect_log: ExpectLog) -> None:
    begun = lease_clock.now()
    hands.monotonic += 3600
    assert lease_clock.now() == begun
    with expect_log(r"stalled seconds=3600\.000"):
        lease_clock.beat()
    hands.monotonic += 0.5

    assert lease_clock.now() == begun + 0.5
    assert (lease_clock.stalls, lease_clock.stalled_seconds) == (1, 3600)
    assert lease_clock.uptime() == 3600.5, "uptime counts the time away"
    assert lease_clock.awake() == 0.5


def test_whoever_asks_first_after_a_stall_finds_it(hands: Hands, lease_clock: LeaseClock) -> None:
    hands.monotonic += 0.75
    asked = lease_clock.now()
    hands.monotonic += 20

    assert lease_clock.now() == asked
    assert lease_clock.stalls == 1


def test_a_loop_that_is_busy_for_long_lets_a_second_count(
    hands: Hands, lease_clock: LeaseClock, expect_log: ExpectLog
) -> None:
    begun = lease_clock.now()
    for _ in range(400):  # requests, each of which asks; and heartbeats of others wait behind them
        hands.monotonic += 0.1
        lease_clock.now()

    assert lease_clock.now() == pytest.approx(begun + AWAY)
    with expect_log(r"stalled seconds=39\.000"):
        lease_clock.beat()
    hands.monotonic += 0.5
    assert lease_clock.now() == pytest.approx(begun + AWAY + 0.5)
    assert lease_clock.stalls == 1
    assert lease_clock.awake() == pytest.approx(40.5), "the process ran all the time"


def test_no_time_counts_from_a_refusal_to_the_next_beat(
    hands: Hands, lease_clock: LeaseClock, expect_log: ExpectLog
) -> None:
    hands.monotonic += 0.1
    lease_clock.stand_still()
    refused = lease_clock.now()
    for _ in range(20):
        hands.monotonic += 0.25
        lease_clock.stand_still()
        assert lease_clock.now() == refused

    with expect_log(r"stalled seconds=5\.000"):
        lease_clock.beat()
    hands.monotonic += 0.25
    assert lease_clock.now() == refused + 0.25


def test_the_wall_clock_has_no_say(hands: Hands, lease_clock: LeaseClock) -> None:
    begun = lease_clock.now()
    hands.wall -= 86400 * 365
    hands.monotonic += 0.25

    assert lease_clock.now() == begun + 0.25
    assert lease_clock.wall() == int(hands.wall)


def test_the_loop_runs_on_monotonic_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> None:
        loop = MonotonicIOLoop()
        assert IOLoop.current() is loop
        before = loop.time()
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert loop.time() >= before
        assert loop.time() - asyncio.get_running_loop().time() < 1

    asyncio.run(look())
