"""What outlives an instance: its generation and its override, for an hour, bounded."""

from registryd.core import past
from registryd.core.model import Override
from registryd.core.past import REMEMBERED_SECONDS, Gone, Past

DRAINING = Override("draining", "", 0)


def test_it_is_remembered_for_an_hour_and_not_longer() -> None:
    gone = Past()
    gone.add("a", Gone("i", "users", "", 1000, 3, DRAINING, 0))

    remembered = gone.get("a", 1000 + REMEMBERED_SECONDS - 1)
    assert remembered is not None
    assert (remembered.generation, remembered.override) == (3, DRAINING)
    assert gone.get("a", 1000 + REMEMBERED_SECONDS) is None


def test_what_is_over_makes_room_when_the_next_one_goes() -> None:
    gone = Past()
    gone.add("a", Gone("i", "users", "", 1000, 1, None, 0))
    gone.add("b", Gone("i", "users", "", 1000 + REMEMBERED_SECONDS, 1, None, 0))

    assert len(gone) == 1


def test_the_longest_gone_make_room_for_others() -> None:
    gone = Past()
    for n in range(past.REMEMBERED_INSTANCES + 5):
        gone.add(str(n), Gone("i", "users", "", 1000, 1, None, 0))

    assert len(gone) == past.REMEMBERED_INSTANCES
    assert gone.get("4", 1000) is None
    assert gone.get("5", 1000) is not None


def test_whoever_is_back_is_not_gone() -> None:
    gone = Past()
    gone.add("a", Gone("i", "users", "", 1000, 1, None, 0))
    gone.forget("a")
    gone.forget("nobody")

    assert gone.get("a", 1000) is None
