"""Suspects: leases that end together stay for one more ttl, as it may be us who cannot be reached."""

from collections.abc import Collection, Iterator

import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.core import suspects as suspects_module
from registryd.core.leases import Lease
from registryd.core.model import Change, Deregister, Report, SetOverride, Update
from registryd.core.state import State
from registryd.core.suspects import Silence, Verdict

TTL = 30.0


@pytest.fixture
def state() -> Iterator[State]:
    state = new_state()
    state.suspect_share = 0.5
    yield state
    state.check()


def fill(state: State, count: int, service_name: str = "users", at: float = NOW, apart: float = 0.0) -> None:
    """So many instances, heard one after the other, the first of them then."""
    for n in range(count):
        change = state.decide(a_registration(service_name, f"{service_name}-{n}", ttl=TTL), at, WALL)
        state.commit(change, at + n * apart, WALL)


def settle(state: State, now: float) -> list[Change]:
    return list(state.commit(state.ended(now, WALL), now, WALL))


def hear(state: State, instance_id: str, now: float) -> list[Change]:
    lease = state.lease(instance_id)
    if lease.suspicion is not None:
        return list(state.commit(state.heard([lease], WALL), now, WALL))
    state.renew(lease, now, WALL)
    return []


def suspected(state: State, service_name: str = "users") -> int:
    service = state.service(service_name)
    return 0 if service is None else service.suspects


def test_the_first_to_end_in_a_cut_is_recognised(state: State) -> None:
    fill(state, 40, apart=0.25)  # each sends a heartbeat each ten seconds, and then there is a cut
    (change,) = settle(state, NOW + TTL)

    assert (change.kind, change.instance.instance_id) == ("updated", "users-0")
    assert change.reason == (
        "suspect: 40 of 40 leases of 'users' have gone silent (--suspect-share 0.5), so it may be us who cannot be "
        "reached; listed for another 30 s unless it is heard"
    )
    assert state.lease("users-0").suspicion == change.suspicion
    assert change.suspicion is not None
    assert change.suspicion.until == WALL + 30
    assert len(state.leases("users")) == 40


@pytest.mark.parametrize(("heard_at", "kind"), [(14.9, "updated"), (15.0, "expired")])
def test_whoever_was_heard_in_the_last_half_of_his_ttl_is_not_silent(state: State, heard_at: float, kind: str) -> None:
    fill(state, 40)
    for n in range(15, 40):
        hear(state, f"users-{n}", NOW + heard_at)
    assert {change.kind for change in settle(state, NOW + TTL)} == {kind}


@pytest.mark.parametrize(("count", "kind"), [(9, "expired"), (10, "updated")])
def test_nine_are_not_enough(state: State, count: int, kind: str) -> None:
    fill(state, count)
    assert {change.kind for change in settle(state, NOW + TTL)} == {kind}


@pytest.mark.parametrize(("silent", "kind"), [(19, "expired"), (20, "updated")])
def test_below_the_share_they_expire(state: State, silent: int, kind: str) -> None:
    fill(state, 40)
    for n in range(silent, 40):
        hear(state, f"users-{n}", NOW + 20)
    assert {change.kind for change in settle(state, NOW + TTL)} == {kind}


def test_a_share_of_a_decimal_is_what_people_would_reckon(state: State) -> None:
    state.suspect_share = 0.35
    fill(state, 40)
    for n in range(14, 40):
        hear(state, f"users-{n}", NOW + 20)
    assert {change.kind for change in settle(state, NOW + TTL)} == {"updated"}, "0.35 of 40 is 14"


def test_without_a_share_they_expire(state: State) -> None:
    state.suspect_share = 0.0
    fill(state, 40)
    assert {change.kind for change in settle(state, NOW + TTL)} == {"expired"}


def test_a_suspect_is_listed_for_exactly_one_more_ttl_and_then_expires_for_good(state: State) -> None:
    fill(state, 12)
    assert len(settle(state, NOW + TTL + 0.5)) == 12, "that nobody has asked for a while does not make it longer"

    assert settle(state, NOW + 2 * TTL - 0.001) == []
    expired = settle(state, NOW + 2 * TTL)
    assert {change.kind for change in expired} == {"expired"}
    assert {change.reason for change in expired} == {"no heartbeat for 30 s, and for 30 s more as a suspect"}
    assert all(change.suspicion for change in expired), "as it was"
    assert (len(state), state.suspects()) == (0, 0)


def test_whoever_was_not_looked_at_for_two_ttls_expires_at_once(state: State) -> None:
    fill(state, 12)
    assert {change.kind for change in settle(state, NOW + 2 * TTL)} == {"expired"}


def test_a_heartbeat_ends_it(state: State) -> None:
    fill(state, 12)
    settle(state, NOW + TTL)
    (change,) = hear(state, "users-7", NOW + 40)

    assert (change.kind, change.reason) == ("updated", "is heard again: no longer suspect")
    assert change.suspicion is None
    lease = state.lease("users-7")
    assert (lease.suspicion, lease.expires_at) == (None, NOW + 70)
    assert state.suspects() == 11
    assert len(settle(state, NOW + 60)) == 11
    assert [lease.instance.instance_id for lease in state.leases("users")] == ["users-7"]


def test_a_takeover_ends_it(state: State) -> None:
    fill(state, 12)
    settle(state, NOW + TTL)
    (change,) = state.commit(state.decide(a_registration("users", "users-7"), NOW + 40, WALL), NOW + 40, WALL)

    assert (change.kind, change.suspicion) == ("registered", None)
    assert state.suspects() == suspected(state) == 11


def test_a_move_takes_it_along_to_nowhere(state: State) -> None:
    fill(state, 12)
    settle(state, NOW + TTL)
    state.commit(state.decide(a_registration("others", "users-7"), NOW + 40, WALL), NOW + 40, WALL)

    assert (suspected(state), suspected(state, "others"), state.suspects()) == (11, 0, 11)


def test_those_that_were_deregistered_do_not_count(state: State) -> None:
    fill(state, 20)
    for n in range(11):
        state.commit(state.decide(Deregister(f"users-{n}"), NOW + 1, WALL), NOW + 1, WALL)
    assert {change.kind for change in settle(state, NOW + TTL)} == {"expired"}, "nine are left"


def test_those_that_have_expired_count_for_one_ttl(state: State) -> None:
    fill(state, 9)
    for n in range(3):
        at = NOW + 20 + n
        state.commit(state.decide(a_registration("users", f"late-{n}", ttl=TTL), at, WALL), at, WALL)
    assert {change.kind for change in settle(state, NOW + TTL)} == {"expired"}
    assert {change.kind for change in settle(state, NOW + 50)} == {"updated"}, "nine that have gone, and it, of twelve"
    assert {change.kind for change in settle(state, NOW + 51)} == {"updated"}
    service = state.service("users")
    assert service is not None
    assert (state.silence(service, NOW + 59).silent, state.silence(service, NOW + 60).silent) == (12, 3)


def test_those_that_have_expired_and_are_back_do_not_count(state: State) -> None:
    fill(state, 9)
    fill(state, 1, "late")
    state.commit(state.decide(a_registration("users", "late-0", ttl=TTL), NOW + 20, WALL), NOW + 20, WALL)
    settle(state, NOW + TTL)
    for n in range(9):
        state.commit(state.decide(a_registration("users", f"users-{n}", ttl=TTL), NOW + 31, WALL), NOW + 31, WALL)
    service = state.service("users")
    assert service is not None
    assert (state.silence(service, NOW + 45).silent, state.silence(service, NOW + 45).of) == (1, 10)


def test_each_service_counts_for_itself(state: State) -> None:
    fill(state, 12)
    fill(state, 3, "timelines")
    kinds = {(change.instance.service_name, change.kind) for change in settle(state, NOW + TTL)}
    assert kinds == {("users", "updated"), ("timelines", "expired")}


def test_it_ends_by_itself_when_they_are_heard_again(state: State) -> None:
    fill(state, 40)
    hear(state, "users-39", NOW + 1)
    hear(state, "users-38", NOW + 1.5)
    settle(state, NOW + TTL)
    for n in range(30):
        hear(state, f"users-{n}", NOW + 30.5)
    assert state.suspects() == 8
    assert [change.kind for change in settle(state, NOW + 31)] == ["expired"], "silent are it, one more, and eight"


def test_a_verdict_stands_for_a_moment_and_is_of_those_who_end_in_it(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(state, 40, apart=0.01)
    counted: list[float] = []
    count = suspects_module.Silence.count

    def counting(self: Silence, leases: Collection[Lease], share: float, now: float) -> Verdict:
        counted.append(now)
        return count(self, leases, share, now)

    monkeypatch.setattr(Silence, "count", counting)
    assert len(settle(state, NOW + TTL)) == 1
    for n in range(21, 40):
        hear(state, f"users-{n}", NOW + TTL + 0.1)
    assert {change.kind for change in settle(state, NOW + TTL + 0.2)} == {"updated"}
    assert counted == [NOW + TTL]


def test_what_was_said_of_one_that_has_ended_stays_true(state: State) -> None:
    fill(state, 40)
    for n in range(25, 40):
        hear(state, f"users-{n}", NOW + 20)
    assert not state.has_ended(state.lease("users-0"), NOW + TTL)
    for n in range(20):
        hear(state, f"users-{n}", NOW + TTL)
    changes = settle(state, NOW + TTL + 2)
    assert [change.kind for change in changes] == ["updated"] * 5


def test_of_very_many_some_are_looked_at(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects_module, "MOST_COUNTED", 10)
    fill(state, 100)
    for n in range(50):
        hear(state, f"users-{n}", NOW + 20)
    service = state.service("users")
    assert service is not None
    verdict = state.silence(service, NOW + 25)
    assert 40 <= verdict.silent <= 60
    assert (verdict.of, verdict.needed) == (100, 50)


def test_another_share_makes_another_verdict(state: State) -> None:
    fill(state, 12)
    settle(state, NOW + TTL)
    fill(state, 1, "late", NOW)
    state.suspect_share = 1.0
    assert state.suspects() == 12, "those who are stay"
    for n in range(11):
        hear(state, f"users-{n}", NOW + 31)
    state.suspect_share = 0.0
    assert {change.kind for change in settle(state, NOW + 60)} == {"expired"}


def test_a_change_that_was_decided_before_shows_what_is_so_now(state: State) -> None:
    fill(state, 12)
    drain = state.decide(SetOverride("users-0", "draining", "deploy"), NOW + 29, WALL)
    report = state.decide(Update("users-1", Report(weight=7)), NOW + 29, WALL)
    settle(state, NOW + TTL)
    done = state.commit([*drain, *report], NOW + TTL, WALL)

    assert [change.suspicion is not None for change in done] == [True, True]
    assert (state.lease("users-0").status, state.lease("users-1").instance.weight) == ("draining", 7)


def test_a_change_that_comes_true_at_the_very_end_of_a_lease_is_not_lost(state: State) -> None:
    fill(state, 12)
    drain = state.decide(SetOverride("users-0", "draining", "deploy"), NOW + 29, WALL)
    assert state.commit(drain, NOW + TTL, WALL) != ()


def test_an_override_that_ends_in_the_same_moment_is_over(state: State) -> None:
    fill(state, 12)
    state.commit(state.decide(SetOverride("users-0", "draining", seconds=30.0), NOW, WALL), NOW, WALL)
    over, suspect, *_ = settle(state, NOW + TTL)

    assert (over.reason, over.suspicion) == ("draining is over: its time is up", None)
    assert (suspect.instance.instance_id, suspect.status, suspect.override) == ("users-0", "up", None)
    assert state.lease("users-0").status == "up"


def test_suspects_and_others_end_in_order(state: State) -> None:
    fill(state, 12, apart=0.5)
    settle(state, NOW + TTL + 2)  # five of them
    fill(state, 3, "others", NOW + 32.5)
    ends = [lease.expires_at for lease in state._leases.ended(NOW + 200)]
    assert ends == sorted(ends)
    assert len(ends) == 15
