"""The sweep comes by itself, on a loop whose clock a test moves; and it can prove that it does."""

import asyncio

from conftest import ExpectLog
from support import FIRST_INDEX, RecordingStore, TimeTravel, a_registration, new_state, travel

from registryd.clock import LeaseClock
from registryd.feed import Feed
from registryd.registry import Registry
from registryd.sweeper import Sweeper


class World:
    """A registry with a sweeper on a travelling loop."""

    def __init__(self, loop: TimeTravel, interval: float) -> None:
        self.clock = LeaseClock(loop.time, lambda: 1_705_314_600.0)
        self.store = RecordingStore()
        self.registry = Registry(new_state(), self.store, Feed(FIRST_INDEX), self.clock)
        self.sweeper = Sweeper(self.registry, self.clock, interval)


def test_it_sweeps_at_every_interval_without_being_asked() -> None:
    async def story(loop: TimeTravel) -> None:
        world = World(loop, interval=10.0)
        await world.registry.register(a_registration(ttl=15.0))
        world.sweeper.start()

        await asyncio.sleep(19)
        assert [change.kind for change in world.store.changes] == ["registered"]
        await asyncio.sleep(2)
        assert [change.kind for change in world.store.changes] == ["registered", "expired"]
        world.sweeper.stop()

    travel(story)


def test_an_idle_hour_is_no_stall() -> None:
    async def story(loop: TimeTravel) -> None:
        world = World(loop, interval=3600.0)
        world.sweeper.start()
        await asyncio.sleep(3600)

        assert world.clock.stalls == 0
        world.sweeper.stop()

    travel(story)


def test_it_counts_how_late_the_loop_comes_round() -> None:
    async def story(loop: TimeTravel) -> None:
        world = World(loop, interval=3600.0)
        world.sweeper.start()
        await asyncio.sleep(10.1)
        lag = world.sweeper.lag
        assert (sum(lag.counts), round(lag.seconds, 6)) == (40, 0)

        loop.call_later(0.01, lambda: setattr(loop, "moment", loop.moment + 0.6))  # someone keeps it for so long
        await asyncio.sleep(1)
        assert 0.35 < lag.seconds < 0.6
        assert sum(lag.counts[lag.bounds.index(0.5) :]) == lag.counts[lag.bounds.index(0.5)] == 1
        world.sweeper.stop()

    travel(story)


def test_it_is_alive_while_sweeps_come(expect_log: ExpectLog) -> None:
    async def story(loop: TimeTravel) -> None:
        world = World(loop, interval=10.0)
        world.sweeper.start()
        for _ in range(50):
            await asyncio.sleep(3)
            assert world.sweeper.is_alive()

        loop.moment += 3600
        assert world.sweeper.is_alive(), "in a stall of the whole process no sweep could come"
        with expect_log("stalled seconds=3600"):
            await asyncio.sleep(3)
        world.sweeper.stop()
        for _ in range(30):
            loop.moment += 0.75
            world.clock.now()
        assert not world.sweeper.is_alive()

    travel(story)


def test_no_lease_ends_while_someone_is_refused(expect_log: ExpectLog) -> None:
    async def story(loop: TimeTravel) -> None:
        world = World(loop, interval=10.0)
        is_refusing = False
        world.sweeper = Sweeper(world.registry, world.clock, 10.0, lambda: not is_refusing)
        await world.registry.register(a_registration(ttl=5.0))
        world.sweeper.start()
        await asyncio.sleep(3)
        is_refusing = True
        world.clock.stand_still()
        await asyncio.sleep(3600)

        assert world.registry.listing("users") is not None
        assert world.sweeper.is_alive()
        is_refusing = False
        with expect_log("stalled seconds=3600"):
            await asyncio.sleep(1)
        assert world.registry.listing("users") is not None
        await asyncio.sleep(1.5)
        assert world.registry.listing("users") is None, "it has got as much more, and no more"
        world.sweeper.stop()

    travel(story)


def test_a_sweep_that_fails_is_logged_and_counts_as_none(expect_log: ExpectLog) -> None:
    async def story(loop: TimeTravel) -> None:
        world = World(loop, interval=10.0)

        def fail() -> None:
            raise RuntimeError("planted")

        world.registry.sweep = fail  # type: ignore[method-assign]
        world.sweeper.start()
        with expect_log("Exception in callback"):
            await asyncio.sleep(35)
        assert not world.sweeper.is_alive()
        world.sweeper.stop()

    travel(story)


def test_watchers_hear_of_an_end_within_a_second_whatever_the_interval_is() -> None:
    async def story(loop: TimeTravel) -> None:
        world = World(loop, interval=3600.0)
        world.sweeper.start()
        for ttl in (1.0, 2.5, 29.9):
            await world.registry.register(a_registration(instance_id=str(ttl), ttl=ttl))
            ends = loop.time() + ttl
            with world.registry.feed.seat():
                await world.registry.feed.changed("users")
            assert ends <= loop.time() <= ends + 1
        world.sweeper.stop()

    travel(story)


def test_the_interval_can_change_either_way_and_nobody_takes_it_for_dead() -> None:
    async def story(loop: TimeTravel) -> None:
        world = World(loop, interval=3600.0)
        await world.registry.register(a_registration(ttl=1.0))
        world.sweeper.start()
        await asyncio.sleep(1800)
        for interval in (1.0, 3600.0, 1.0):
            world.sweeper.sweep_every(interval)
            for _ in range(20):
                assert world.sweeper.is_alive()
                await asyncio.sleep(0.5)
        world.sweeper.stop()

    travel(story)
