"""Choosing: what fits, in which order, and by chance in proportion to the weights."""

import random
from collections import Counter
from typing import Any

import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.core.choice import Choice, choose, pick
from registryd.core.leases import Lease
from registryd.core.model import SetOverride
from registryd.core.state import State

DICE = random.Random(7)


@pytest.fixture
def state(state: State) -> State:
    """Instances a to f, each with something of its own."""
    instances: dict[str, dict[str, Any]] = {
        "a": {"tags": ("blue", "canary"), "version": "1", "zone": "eu"},
        "b": {"tags": ("blue",), "version": "2", "zone": "us", "metadata": {"rack": "7"}},
        "c": {"status": "starting", "zone": "eu"},
        "d": {"status": "down"},
        "e": {"zone": "eu", "metadata": {"rack": "7", "os": "linux"}},
        "f": {"zone": "us"},
    }
    for instance_id, more in instances.items():
        state.commit(state.decide(a_registration(instance_id=instance_id, **more), NOW, WALL), NOW, WALL)
    state.commit(state.decide(SetOverride("f", "draining"), NOW, WALL), NOW, WALL)
    return state


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (Choice(), "abe"),
        (Choice(statuses=None), "abcdef"),
        (Choice(statuses=frozenset({"starting", "draining"})), "cf"),
        (Choice(statuses=frozenset({"maintenance"})), ""),
        (Choice(tags=("blue",)), "ab"),
        (Choice(tags=("blue", "canary")), "a"),
        (Choice(tags=("blu",)), ""),
        (Choice(version="2"), "b"),
        (Choice(version=""), "e"),
        (Choice(zone="eu"), "ae"),
        (Choice(metadata=(("rack", "7"),)), "be"),
        (Choice(metadata=(("rack", "7"), ("os", "linux"))), "e"),
        (Choice(metadata=(("rack", "8"),)), ""),
        (Choice(near="us"), "bae"),
        (Choice(near="nowhere"), "abe"),
        (Choice(limit=2), "ab"),
        (Choice(limit=9), "abe"),
        (Choice(near="us", limit=1), "b"),
        (Choice(zone="eu", tags=("blue",), statuses=None), "a"),
    ],
)
def test_what_fits_is_chosen_in_order(state: State, choice: Choice, chosen: str) -> None:
    leases = choose(state.leases("users"), choice, DICE)

    assert "".join(lease.instance.instance_id for lease in leases) == chosen


def weighted(*weights: int) -> list[Lease]:
    state = new_state()
    for n, weight in enumerate(weights):
        state.commit(state.decide(a_registration(instance_id=str(n), weight=weight), NOW, WALL), NOW, WALL)
    return list(state.leases("users"))


def test_picking_is_honest_by_weight() -> None:
    weights = (1, 2, 3, 4, 0, 10)
    leases, dice, draws = weighted(*weights), random.Random(20_240_115), 20_000
    counts = Counter(pick(leases, dice)[0].instance.instance_id for _ in range(draws))

    expected = {str(n): draws * weight / sum(weights) for n, weight in enumerate(weights) if weight}
    assert counts.keys() == expected.keys(), "weight 0 is never picked"
    chi_square = sum((counts[i] - expected[i]) ** 2 / expected[i] for i in expected)
    assert chi_square < 13.28, "the 99th percentile of chi-square with 4 degrees of freedom"


def test_the_chi_square_test_would_see_a_dishonest_pick() -> None:
    leases, dice, draws = weighted(1, 2, 3, 4, 10), random.Random(20_240_115), 20_000
    counts = Counter(dice.choice(leases).instance.instance_id for _ in range(draws))

    expected = {str(n): draws * weight / 20 for n, weight in enumerate((1, 2, 3, 4, 10))}
    assert sum((counts[i] - expected[i]) ** 2 / expected[i] for i in expected) > 1000


def test_weight_0_is_picked_where_there_is_no_other() -> None:
    leases, dice = weighted(0, 0), random.Random(7)

    assert {pick(leases, dice)[0].instance.instance_id for _ in range(100)} == {"0", "1"}
    assert pick([], dice) == []


def test_picking_near_takes_that_zone_while_it_has_any(state: State) -> None:
    leases = state.leases("users")

    assert {choose(leases, Choice(pick=True, near="us"), DICE)[0].instance.instance_id for _ in range(100)} == {"b"}
    assert {choose(leases, Choice(pick=True, near="nowhere"), DICE)[0].instance.instance_id for _ in range(100)} == {
        "a",
        "b",
        "e",
    }
