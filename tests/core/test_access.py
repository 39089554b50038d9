"""Who may do what, without HTTP: rights, patterns, and who owns an instance."""

from collections.abc import Collection

import pytest
from support import NOW, WALL, a_registration, new_state

from registryd.core.access import EVERYONE, RIGHTS, Caller, Right
from registryd.core.errors import Forbidden, UnknownInstance
from registryd.core.model import Command, Deregister, Origin, Report, Resume, SetOverride, Update
from registryd.core.state import State


def a_caller(name: str, *allow: Right, services: Collection[str] = ("*",)) -> Caller:
    return Caller(name, allow, services)


def do(state: State, caller: Caller, command: Command) -> None:
    state.commit(state.decide(command, NOW, WALL, Origin("10.0.0.9", "test", caller)), NOW, WALL)
    state.check()


CHANGES: list[Command] = [Update("i1", Report(status="down")), Deregister("i1"), a_registration()]
OVERRIDES: list[Command] = [SetOverride("i1", "draining"), Resume("i1")]


@pytest.mark.parametrize(
    ("allow", "has"),
    [
        ((), ()),
        (("read",), ("read",)),
        (("register",), ("register",)),
        (("operate",), ("read", "operate")),
        (("admin",), RIGHTS),
        (("register", "read"), ("read", "register")),
    ],
)
def test_whoever_operates_reads_and_an_admin_does_all(allow: tuple[Right, ...], has: tuple[Right, ...]) -> None:
    caller = a_caller("a", *allow)

    assert caller.rights == set(has)
    for right in RIGHTS:
        assert caller.may(right, "users") == (right in has)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("user*", ["user", "users", "user.svc-1"], ["xuser", "use", "Users"]),
        ("user?", ["users", "user."], ["user", "userss"]),
        ("a.b", ["a.b"], ["axb", "a.b.c"]),
        ("*", ["anything"], []),
        ("*-svc", ["users-svc"], ["users-svc-2", "users-svc\n"]),
    ],
)
def test_patterns_are_as_in_a_shell(pattern: str, yes: list[str], no: list[str]) -> None:
    caller = a_caller("a", "read", services=["other", pattern])

    assert all(caller.may("read", name) for name in [*yes, "other"])
    assert not any(caller.may("read", name) for name in no)
    assert not a_caller("a", "read", services=[]).may("read", "users")


@pytest.mark.parametrize("command", CHANGES, ids=lambda command: type(command).__name__)
def test_only_its_owner_and_operators_change_an_instance(command: Command) -> None:
    for other in (a_caller("other", "register", "read"), a_caller("ops", "operate", services=["media"])):
        state = new_state()
        do(state, a_caller("owner", "register"), a_registration())
        with pytest.raises((Forbidden, UnknownInstance)):
            do(state, other, command)

    for entitled in (
        a_caller("owner", "register", services=["user*"]),
        a_caller("ops", "operate", "register"),
        EVERYONE,
    ):
        state = new_state()
        do(state, a_caller("owner", "register"), a_registration())
        do(state, entitled, command)


@pytest.mark.parametrize("command", OVERRIDES, ids=lambda command: type(command).__name__)
def test_only_operators_lay_overrides(command: Command) -> None:
    state = new_state()
    do(state, a_caller("owner", "register"), a_registration())
    for other in (a_caller("owner", "register", "read"), a_caller("a", "read")):
        with pytest.raises(Forbidden, match="has not the right `operate` for service 'users'"):
            do(state, other, command)
    do(state, a_caller("ops", "operate", services=["users"]), command)


def test_who_may_not_read_a_service_is_told_that_its_instance_is_not_there() -> None:
    state = new_state()
    do(state, a_caller("owner", "register"), a_registration())
    blind = a_caller("blind", "register", "operate", services=["media"])
    said = set()
    for command in (*CHANGES[:2], *OVERRIDES):
        with pytest.raises(UnknownInstance) as there:
            do(state, blind, command)
        with pytest.raises(UnknownInstance) as not_there:
            do(new_state(), blind, command)
        said |= {str(there.value), str(not_there.value)}
    assert len(said) == 1


def test_an_id_of_another_cannot_be_taken_over_nor_moved() -> None:
    state = new_state()
    do(state, a_caller("owner", "register"), a_registration())
    other = a_caller("other", "register")
    for service_name in ("users", "media"):
        with pytest.raises(Forbidden, match="`operate` for what is registered under this instance_id"):
            do(state, other, a_registration(service_name))
    with pytest.raises(Forbidden, match="`register` for service 'users'"):
        do(state, a_caller("a", "register", services=["media"]), a_registration(instance_id="i2"))

    do(state, a_caller("both", "register", "operate"), a_registration())
    assert state.lease("i1").instance.owner == "both"
    with pytest.raises(Forbidden):
        do(state, a_caller("owner", "register", "read"), Update("i1", Report(status="down")))


def test_what_was_registered_without_a_token_belongs_to_whoever_may_register_it() -> None:
    state = new_state()
    do(state, EVERYONE, a_registration())
    with pytest.raises(UnknownInstance):
        do(state, a_caller("a", "register", services=["media"]), Deregister("i1"))
    do(state, a_caller("a", "register"), a_registration())
    assert state.lease("i1").instance.owner == "a"


def test_the_history_tells_who_takes_an_instance_off_the_list() -> None:
    state = new_state()
    for caller, reason in [(a_caller("owner", "register"), "its owner"), (a_caller("ops", "operate"), "an operator")]:
        do(state, a_caller("owner", "register"), a_registration())
        (change,) = state.decide(Deregister("i1"), NOW, WALL, Origin("", "", caller))
        assert change.reason == f"{reason} asked for it"


@pytest.mark.parametrize("is_gone", [True, False])
def test_an_id_belongs_to_its_owner_also_when_its_instance_is_gone(is_gone: bool) -> None:
    state = new_state()
    owner, other = a_caller("owner", "register"), a_caller("other", "register", "operate", services=["b*"])
    do(state, owner, a_registration())
    if is_gone:
        do(state, owner, Deregister("i1"))
    with pytest.raises(Forbidden, match="`operate` for what is registered under this instance_id"):
        do(state, other, a_registration("b1"))
    do(state, owner, a_registration())


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_an_operator_has_laid_is_not_shed_by_a_move(is_gone: bool) -> None:
    state = new_state()
    owner = a_caller("owner", "register")
    do(state, owner, a_registration())
    do(state, a_caller("ops", "operate"), SetOverride("i1", "maintenance", "ticket 77"))
    if is_gone:
        do(state, owner, Deregister("i1"))
    with pytest.raises(Forbidden, match="`operate` for service 'users'"):
        do(state, owner, a_registration("b1"))
    do(state, owner, a_registration())
    assert state.lease("i1").status == "maintenance"
    do(state, EVERYONE, a_registration("b1"))
