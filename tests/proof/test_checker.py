"""The checker against histories that are written by hand, and against all orders that there are."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from proof.checker import Checker, Violation
from proof.history import Kind, Life, Operation, Outcome, Registration

TTL = 10.0


class Told:
    """A history as it is told: each operation with its begin and end. Ids are of the service `s`."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.lives = [Life(1, 0.0, 0.0)]
        self._numbers = itertools.count(1)

    def _tell(self, kind: Kind, begin: float, end: float, outcome: Outcome, **more: Any) -> int:
        number = next(self._numbers)
        service = "" if kind == "status" else "s"
        self.operations.append(
            Operation(
                number=number, client=1, life=len(self.lives), kind=kind, service=service,
                invoked=begin, ended=end, outcome=outcome, **more,
            )
        )  # fmt: skip
        return number

    def register(
        self, begin: float, end: float, name: str, generation: int = 0, outcome: Outcome = "ok", ttl: float = TTL
    ) -> int:
        number = self._tell("register", begin, end, outcome, instance_id=name, ttl=ttl)
        if generation:
            found = Registration(number, generation)
            self.operations[-1] = Operation(**fields(self.operations[-1]) | {"found": found})
        return number

    def heartbeat(
        self, begin: float, end: float, name: str, outcome: Outcome = "ok", generation: int | None = None
    ) -> int:
        return self._tell("heartbeat", begin, end, outcome, instance_id=name, generation=generation)

    def deregister(
        self, begin: float, end: float, name: str, outcome: Outcome = "ok", found: tuple[int, int] | None = None
    ) -> int:
        what = None if found is None else Registration(*found)
        return self._tell("deregister", begin, end, outcome, instance_id=name, found=what)

    def lookup(self, begin: float, end: float, index: int, **listed: tuple[int, int]) -> int:
        found = {name: Registration(*one) for name, one in listed.items()}
        return self._tell("lookup", begin, end, "ok", index=index, listed=found)

    def status(self, begin: float, end: float, stalled: float = 0.0, index: int = 0) -> None:
        self._tell("status", begin, end, "ok", stalled=stalled, index=index)

    def restart(self, dead: float, ready: float) -> None:
        """The registry is killed, and another one is there at once."""
        self.lives[-1].dead = dead
        self.lives.append(Life(len(self.lives) + 1, dead, ready))

    def judge(self) -> None:
        last = max(operation.ended for operation in self.operations) + 1
        self.status(last, last, max(operation.stalled for operation in self.operations))
        Checker().feed(self.operations, self.lives)


def fields(operation: Operation) -> dict[str, Any]:
    return {name: getattr(operation, name) for name in operation.__struct_fields__}


@pytest.fixture
def told() -> Told:
    return Told()


def refused(told: Told) -> str:
    """Asserts that no order explains it; gives back the counterexample."""
    with pytest.raises(Violation) as violation:
        told.judge()
    return str(violation.value)


def test_what_happens_one_after_the_other_is_explained(told: Told) -> None:
    told.lookup(0, 1, 100)
    told.heartbeat(1, 2, "a", "unknown_instance")
    first = told.register(2, 3, "a", 1)
    told.lookup(3, 4, 101, a=(first, 1))
    again = told.register(4, 5, "a", 2)
    told.heartbeat(5, 6, "a", "stale_generation", 1)
    told.heartbeat(6, 7, "a", "ok", 2)
    told.lookup(7, 8, 102, a=(again, 2))
    told.deregister(8, 9, "a", found=(again, 2))
    told.lookup(9, 10, 103)
    told.register(10, 11, "a", 3)
    told.judge()


def test_what_was_answered_is_there(told: Told) -> None:
    number = told.register(1, 2, "a", 1)
    told.lookup(3, 4, 100)

    lease = f"it is generation 1, registered by #{number}, its lease ends between 11.0000 and 12.0000"
    assert refused(told).splitlines() == [
        "no order of one registry explains:",
        "  #2 3.0000..4.0000 client 1: lookup s -> ok [] index=100",
        "since then",
        f"  a: {lease}, so it must be listed",
        "what there was before:",
        "  #1 1.0000..2.0000 client 1: register a ttl=10 -> ok registered by #1 generation=1",
    ]


def test_what_goes_on_at_the_same_time_has_any_order(told: Told) -> None:
    a = told.register(0, 9, "a", 1)
    told.lookup(1, 2, 100)
    told.lookup(3, 4, 101, a=(a, 1))
    told.deregister(1, 9, "a", found=(a, 1))
    told.lookup(5, 6, 102)
    told.judge()


def test_nobody_goes_back_to_what_was_before(told: Told) -> None:
    a = told.register(0, 9, "a", 1)
    told.lookup(1, 2, 101, a=(a, 1))
    told.lookup(3, 4, 100)

    assert refused(told)


def test_two_lookups_do_not_see_two_changes_in_different_orders(told: Told) -> None:
    a, b = told.register(0, 9, "a", 1), told.register(0, 9, "b", 1)
    told.lookup(1, 8, 101, a=(a, 1))
    told.lookup(1, 8, 101, b=(b, 1))

    assert refused(told)


def test_one_of_two_changes_is_seen_before_the_other(told: Told) -> None:
    a, b = told.register(0, 9, "a", 1), told.register(0, 9, "b", 1)
    told.lookup(1, 8, 101, b=(b, 1))
    told.lookup(1, 8, 102, a=(a, 1), b=(b, 1))
    told.judge()


@pytest.mark.parametrize("generation", [1, 3])
def test_each_registration_is_the_next_generation(told: Told, generation: int) -> None:
    told.register(1, 2, "a", 1)
    told.register(3, 4, "a", generation)

    assert "it would be generation 2" in refused(told)


def test_a_list_that_has_changed_has_another_index(told: Told) -> None:
    told.lookup(0, 1, 100)
    a = told.register(1, 2, "a", 1)
    told.lookup(3, 4, 100, a=(a, 1))

    assert "its list has changed since it had index 100" in refused(told)


def test_a_list_that_is_the_same_has_the_same_index(told: Told) -> None:
    told.lookup(0, 1, 100)
    told.lookup(3, 4, 101)

    assert "its list is the same since it had index 100" in refused(told)


def test_no_index_goes_back(told: Told) -> None:
    told.lookup(0, 1, 100)
    told.status(2, 3, index=99)

    assert "the index was 100 before, and now it is 99" in refused(told)


def test_a_lease_ends_neither_before_nor_after(told: Told) -> None:
    a = told.register(1, 2, "a", 1)
    told.lookup(10.9, 11.9, 100, a=(a, 1))
    told.lookup(10.9, 11.9, 101)
    told.lookup(11.5, 13.0, 101)
    told.judge()


def test_before_the_end_of_its_lease_an_instance_is_listed(told: Told) -> None:
    told.register(1, 2, "a", 1)
    told.heartbeat(5, 6, "a")
    told.lookup(14, 14.9, 100)

    assert "its lease ends between 15.0000 and 16.0000, so it must be listed" in refused(told)


def test_after_the_end_of_its_lease_an_instance_is_not_listed(told: Told) -> None:
    a = told.register(1, 2, "a", 1)
    told.lookup(12.1, 13, 100, a=(a, 1))

    assert "its lease ends between 11.0000 and 12.0000, so it must not be listed any more" in refused(told)


def test_no_heartbeat_brings_back_what_has_ended(told: Told) -> None:
    told.register(1, 2, "a", 1)
    told.heartbeat(12.1, 13, "a")

    assert "its lease ends between 11.0000 and 12.0000, which was before" in refused(told)


def test_a_lease_is_longer_by_the_seconds_of_a_stall(told: Told) -> None:
    a = told.register(1, 2, "a", 1)
    told.status(3, 4, stalled=0)
    told.status(8, 9, stalled=4)
    told.lookup(15.9, 15.95, 100, a=(a, 1))
    told.lookup(15.95, 16.1, 101)
    told.judge()


def test_in_spite_of_a_stall_it_ends(told: Told) -> None:
    a = told.register(1, 2, "a", 1)
    told.status(8, 9, stalled=4)
    told.lookup(16.1, 16.2, 100, a=(a, 1))

    assert refused(told)


def test_a_stall_is_nobodys_end(told: Told) -> None:
    told.register(1, 2, "a", 1)
    told.status(2.5, 2.6, stalled=0)
    told.status(8, 9, stalled=4)
    told.lookup(11.5, 14.9, 100)

    assert refused(told)


def test_a_stop_must_be_told_as_a_stall(told: Told) -> None:
    told.status(1, 2, stalled=0)
    told.lives[0].stopped.append((3.0, 6.0))
    told.status(7, 8, stalled=2.9)

    assert refused(told) == (
        "it was stopped for 3.000 s from 3.0000 on, and tells of stalls of 0.000 s before and 2.900 s after"
    )


def test_what_got_no_answer_is_done_or_not(told: Told) -> None:
    told.register(0, 1, "a", outcome="unknown")
    told.lookup(2, 3, 100)
    b = told.register(0, 1, "b", outcome="unknown")
    told.lookup(4, 5, 101, b=(b, 1))
    told.register(6, 7, "a", 2)
    told.judge()


def test_once_it_is_over_it_is_not_done_any_more(told: Told) -> None:
    first = told.register(0, 1, "a", 1)
    told.deregister(2, 3, "a", outcome="unknown")
    told.deregister(4, 5, "a", found=(first, 1))
    again = told.register(6, 7, "a", 2)
    told.lookup(8, 9, 100, a=(again, 2))
    told.lookup(8.5, 9.5, 101)

    assert refused(told)


@pytest.mark.parametrize("answers", [1, 2])
def test_a_heartbeat_without_an_answer_is_over_after_two_answers(told: Told, answers: int) -> None:
    a = told.register(0, 1, "a", 1)
    told.heartbeat(2, 3, "a", outcome="unknown")
    for n in range(answers):
        told.status(4 + n, 5 + n)
    told.lookup(15.8, 15.9, 100, a=(a, 1))
    told.judge()
    told.lookup(16.1, 16.2, 100, a=(a, 1))
    if answers == 2:
        assert refused(told)


def test_a_registration_without_an_answer_that_was_seen_is_done(told: Told) -> None:
    a = told.register(0, 1, "a", outcome="unknown")
    told.lookup(4, 5, 100, a=(a, 1))
    told.lookup(6, 7, 101)

    assert "its lease ends between 10.0000 and 15.0000" in refused(told)


def test_registrations_without_an_answer_that_nobody_saw_were_not_where_no_generation_is_left(told: Told) -> None:
    told.register(0, 1, "a", 1)
    for n in range(12):
        told.register(2, 3 + n, "a", outcome="unknown")
    told.register(20, 21, "a", 2)
    told.register(22, 23, "a", 3)
    told.judge()


def test_one_of_them_was_where_one_is_left(told: Told) -> None:
    told.register(0, 1, "a", 1)
    told.register(2, 3, "a", outcome="unknown")
    told.register(2, 4, "a", outcome="unknown")
    told.register(20, 21, "a", 3)
    told.register(22, 23, "a", 4)
    told.judge()


def test_after_a_kill_all_is_as_it_was_answered_and_leases_begin_anew(told: Told) -> None:
    a = told.register(1, 2, "a", 1)
    b = told.register(1, 2, "b", outcome="unknown")
    told.restart(8, 9)
    told.lookup(10, 11, 200, a=(a, 1), b=(b, 1))
    told.lookup(17, 17.9, 200, a=(a, 1), b=(b, 1))
    told.lookup(19.1, 20, 201)
    told.judge()


def test_what_was_answered_survives_a_kill(told: Told) -> None:
    told.register(1, 2, "a", 1)
    told.restart(8, 9)
    told.lookup(10, 11, 200)

    assert refused(told)


@pytest.mark.parametrize("is_written_after", [False, True])
def test_an_end_that_was_not_written_may_be_forgotten(told: Told, is_written_after: bool) -> None:
    a = told.register(1, 2, "a", 1)
    told.status(12.2, 12.3)
    told.lookup(12.5, 13, 100)
    if is_written_after:
        told.register(13, 14, "b", 1)
        told.deregister(14, 15, "b", found=(3, 1))
    told.restart(15, 16)
    told.lookup(17, 18, 200, a=(a, 1))
    if is_written_after:
        assert refused(told)
    else:
        told.judge()


def test_what_a_failing_disk_has_refused_may_be_done_by_a_kill_only(told: Told) -> None:
    a = told.register(1, 2, "a", outcome="store_unavailable")
    told.lookup(3, 4, 100)
    told.restart(5, 6)
    told.lookup(7, 8, 200, a=(a, 1))
    told.judge()


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_a_failing_disk_has_refused_is_not_done(told: Told, is_killed: bool) -> None:
    a = told.register(1, 2, "a", outcome="store_unavailable")
    if is_killed:
        told.register(3, 4, "b", 1)
        told.restart(5, 6)
    told.lookup(7, 8, 200, a=(a, 1))

    assert refused(told)


# Small histories, against all orders.

SPANS = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda ends: (float(min(ends)), max(ends) + 0.5))
NAMES = st.sampled_from(["a", "b"])


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """A few operations on two ids, with answers that may be right."""
    told = Told()
    registered: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        registered.append(draw(NAMES))
        told.register(*draw(SPANS), registered[-1], draw(st.integers(1, 2)), ttl=1000)
    for _ in range(draw(st.integers(1, 3))):
        begin, end = draw(SPANS)
        what = draw(st.sampled_from(["lookup", "deregister", "heartbeat"]))
        if what == "heartbeat":
            told.heartbeat(begin, end, draw(NAMES), draw(st.sampled_from(["ok", "unknown_instance"])))
            continue
        number = draw(st.integers(1, len(registered)))
        found = (number, draw(st.integers(1, 2)))
        if what == "deregister":
            told.deregister(begin, end, registered[number - 1], found=found)
        else:
            told.lookup(begin, end, draw(st.integers(1, 3)), **({registered[number - 1]: found} if number else {}))
    return told.operations


def explains(order: Iterable[Operation]) -> bool:
    """Whether each answer is what a registry gives that is asked in this order: a dictionary, without leases."""
    there: dict[str, Registration] = {}
    generations: dict[str, int] = {}
    index, is_new = 0, True
    for one in order:
        before = dict(there)
        if one.kind == "register":
            generations[one.instance_id] = generations.get(one.instance_id, 0) + 1
            there[one.instance_id] = Registration(one.number, generations[one.instance_id])
            is_right = one.found == there[one.instance_id]
        elif one.kind == "deregister":
            is_right = one.found is not None and there.pop(one.instance_id, None) == one.found
        elif one.kind == "heartbeat":
            is_right = (one.outcome == "ok") == (one.instance_id in there)
        else:
            is_right = one.listed == there and (one.index > index if is_new else one.index == index)
            index, is_new = one.index, False
        if not is_right:
            return False
        is_new = is_new or there != before
    return True


def orders(operations: list[Operation]) -> Iterator[tuple[Operation, ...]]:
    """All orders in which nothing comes before what had ended when it began."""
    for order in itertools.permutations(operations):
        if all(late.ended >= early.invoked for early, late in itertools.combinations(order, 2)):
            yield order


@given(histories())
def test_it_finds_an_order_if_and_only_if_there_is_one(operations: list[Operation]) -> None:
    try:
        Checker().feed(operations, [Life(1, 0.0, 0.0)])
    except Violation:
        is_explained = False
    else:
        is_explained = True

    assert is_explained == any(map(explains, orders(operations)))
