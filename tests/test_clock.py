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


def test_it_runs_while_someone_shows_that_we_are_awake(hands: Hands, lease_clock: LeaseClock) -> None:
    begun = lease_clock.now()
    for _ in range(100):
        hands.monotonic += AWAY
        lease_clock.now()

    assert lease_clock.now() == begun + 100 * AWAY
    assert lease_clock.stalls == 0


def test_it_stands_still_while_nobody_does(hands: Hands, lease_clock: LeaseClock, expect_log: ExpectLog) -> None:
    begun = lease_clock.now()
    hands.monotonic += 3600
    with expect_log(r"stalled seconds=3600\.000"):
        assert lease_clock.now() == begun
    hands.monotonic += 0.5

    assert lease_clock.now() == begun + 0.5
    assert (lease_clock.stalls, lease_clock.stalled_seconds) == (1, 3600)
    assert lease_clock.uptime() == 3600.5, "uptime counts the time away"


def test_whoever_asks_first_after_a_stall_finds_it(
    hands: Hands, lease_clock: LeaseClock, expect_log: ExpectLog
) -> None:
    hands.monotonic += 0.75
    asked = lease_clock.now()
    hands.monotonic += 20
    with expect_log("stalled"):
        assert lease_clock.now() == asked


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
