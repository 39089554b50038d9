"""A hypothesis state machine: the core against a model that is too simple to be wrong. For tests to extend."""

import math
from dataclasses import dataclass
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import WALL, a_registration, new_state

from registryd.core.errors import StaleGeneration, UnknownInstance
from registryd.core.model import Change, Command, Deregister, Register, Report, Resume, SetOverride, Update

IDS = st.sampled_from(["a", "b", "c", "d", "e"])
SERVICES = st.sampled_from(["users", "timelines"])
TTLS = st.sampled_from([1.0, 2.5, 30.0])
STATUSES = st.sampled_from(["up", "starting", "down"])
SHARES = st.sampled_from([0.0, 0.5, 0.7])
GENERATIONS = st.one_of(st.none(), st.integers(1, 3))


@dataclass
class Entry:
    """What the model knows of an instance."""

    service_name: str
    status: str
    ttl: float
    generation: int
    ends: float
    is_suspect: bool = False


@dataclass
class Laid:
    """An override, as the model has it: it belongs to the id, whoever is registered under it."""

    status: str
    ends: float


class CoreAgainstModel(RuleBasedStateMachine):
    """The model is one dictionary; whoever is in it with an end in the past is not there. Two silent ones are enough
    to make suspects, and each verdict is of its own moment only."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = patch.multiple("registryd.core.suspects", LEAST=2, STANDS=0.0)
        self.patches.start()

    def teardown(self) -> None:
        self.patches.stop()

    @initialize(share=SHARES)
    def begin(self, share: float) -> None:
        self.now = 1000.0
        self.state = new_state()
        self.state.suspect_share = self.share = share
        #: Until when those that have expired count, by service and id.
        self.expired: dict[str, dict[str, float]] = {"users": {}, "timelines": {}}
        self.model: dict[str, Entry] = {}
        self.last_generation: dict[str, int] = {}
        self.laid: dict[str, Laid] = {}

    def alive(self) -> dict[str, Entry]:
        return {name: entry for name, entry in self.model.items() if entry.ends > self.now}

    def seen(self, instance_id: str) -> str:
        """The status that a reader sees."""
        laid = self.laid.get(instance_id)
        return self.model[instance_id].status if laid is None else laid.status

    def settle(self) -> None:
        """What the registry does before everything else."""
        suspects = self.suspect()
        ended = self.state.ended(self.now, WALL)
        expired = {change.instance.instance_id for change in ended if change.kind == "expired"}
        assert expired == self.model.keys() - self.alive().keys()
        assert {change.instance.instance_id for change in ended if change.is_passing} == suspects
        over = {change.instance.instance_id for change in ended if change.kind == "updated" and not change.is_passing}
        assert over == {i for i, laid in self.laid.items() if laid.ends <= self.now and i in self.alive()}
        self.laid = {i: laid for i, laid in self.laid.items() if laid.ends > self.now}
        self.state.commit(self.state.ended(self.now, WALL), self.now, WALL)
        for instance_id in expired if self.share else ():
            entry = self.model[instance_id]
            self.expired[entry.service_name][instance_id] = entry.ends + entry.ttl
        self.model = self.alive()
        self.forget()

    def suspect(self) -> set[str]:
        """Those that become suspects now."""
        suspects: set[str] = set()
        for name, expired in self.expired.items():
            listed = {i: entry for i, entry in self.model.items() if entry.service_name == name}
            silent = [e for e in listed.values() if e.is_suspect or e.ends < self.now + e.ttl / 2]
            gone = sum(until > self.now for until in expired.values())
            if self.share and len(silent) + gone >= max(2, self.share * (len(listed) + gone)):
                suspects |= {i for i, e in listed.items() if e.ends <= self.now < e.ends + e.ttl and not e.is_suspect}
        for instance_id in suspects:
            self.model[instance_id].is_suspect = True
            self.model[instance_id].ends += self.model[instance_id].ttl
        return suspects

    def forget(self) -> None:
        """What has expired is forgotten with the last that is there."""
        for name, expired in self.expired.items():
            if all(entry.service_name != name for entry in self.model.values()):
                expired.clear()

    def ask(self, command: Command) -> bool:
        """Sends a command whose instance must be known; the model says what has to come of it."""
        assert not isinstance(command, Register)
        entry = self.model.get(command.instance_id)
        generation = getattr(command, "generation", None)
        if entry is None:
            with pytest.raises(UnknownInstance):
                self.state.decide(command, self.now, WALL)
        elif generation not in (None, entry.generation):
            with pytest.raises(StaleGeneration):
                self.state.decide(command, self.now, WALL)
        else:
            self.state.commit(self.state.decide(command, self.now, WALL), self.now, WALL)
            return True
        return False

    @rule(instance_id=IDS, service_name=SERVICES, ttl=TTLS, status=STATUSES)
    def register(self, instance_id: str, service_name: str, ttl: float, status: str) -> None:
        self.settle()
        command = a_registration(service_name, instance_id, ttl=ttl, status=status)
        changes = self.state.commit(self.state.decide(command, self.now, WALL), self.now, WALL)
        assert changes[-1].kind == "registered"
        generation = self.last_generation[instance_id] = self.last_generation.get(instance_id, 0) + 1
        self.model[instance_id] = Entry(service_name, status, ttl, generation, self.now + ttl)
        self.expired[service_name].pop(instance_id, None)
        self.forget()

    @rule(ids=st.sets(IDS, min_size=3), service_name=SERVICES, ttl=TTLS, apart=st.sampled_from([0.0, 0.25]))
    def many_register(self, ids: set[str], service_name: str, ttl: float, apart: float) -> None:
        """They all end at about the same time, unless they are heard."""
        for instance_id in sorted(ids):
            self.register(instance_id, service_name, ttl, "up")
            self.now += apart

    @rule(instance_id=IDS, generation=GENERATIONS)
    def heartbeat(self, instance_id: str, generation: int | None) -> None:
        self.settle()
        entry = self.model.get(instance_id)
        if entry is None:
            with pytest.raises(UnknownInstance):
                self.state.lease(instance_id, generation)
        elif generation not in (None, entry.generation):
            with pytest.raises(StaleGeneration):
                self.state.lease(instance_id, generation)
        else:
            lease = self.state.lease(instance_id, generation)
            if entry.is_suspect:
                (change,) = self.state.commit(self.state.heard([lease], WALL), self.now, WALL + int(self.now))
                assert (change.kind, change.suspicion) == ("updated", None)
            else:
                self.state.renew(lease, self.now, WALL + int(self.now))
            entry.ends = self.now + entry.ttl
            entry.is_suspect = False

    @rule(instance_id=IDS, generation=GENERATIONS, status=STATUSES)
    def report(self, instance_id: str, generation: int | None, status: str) -> None:
        self.settle()
        if self.ask(Update(instance_id, Report(status=status), generation)):  # type: ignore[arg-type]
            self.model[instance_id].status = status

    @rule(instance_id=IDS, generation=GENERATIONS)
    def deregister(self, instance_id: str, generation: int | None) -> None:
        self.settle()
        if self.ask(Deregister(instance_id, generation)):
            del self.model[instance_id]
            self.forget()

    @rule(
        instance_id=IDS, status=st.sampled_from(["draining", "maintenance"]), seconds=st.sampled_from([None, 1.0, 20.0])
    )
    def override(self, instance_id: str, status: str, seconds: float | None) -> None:
        self.settle()
        if self.ask(SetOverride(instance_id, status, "", seconds)):  # type: ignore[arg-type]
            self.laid[instance_id] = Laid(status, math.inf if seconds is None else self.now + seconds)

    @rule(instance_id=IDS)
    def resume(self, instance_id: str) -> None:
        self.settle()
        if self.ask(Resume(instance_id)):
            self.laid.pop(instance_id, None)

    @rule(share=SHARES)
    def change_the_share(self, share: float) -> None:
        self.settle()
        self.state.suspect_share = self.share = share

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.4, 29.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.model)
    @rule()
    def time_passes_to_the_very_end_of_a_lease(self) -> None:
        self.now = max(self.now, min(entry.ends for entry in self.model.values()))

    @rule(
        command=st.one_of(
            st.builds(lambda i, s: a_registration(s, i, ttl=2.5), IDS, SERVICES),
            st.builds(Deregister, IDS),
            st.builds(lambda i: Update(i, Report(status="down")), IDS),
            st.builds(lambda i: SetOverride(i, "draining", "", 1.0), IDS),
        ),
        seconds=st.sampled_from([0.5, 1.0, 2.5, 30.0]),
        swept=st.booleans(),
    )
    def a_slow_store(self, command: Command, seconds: float, swept: bool) -> None:
        """Time passes between a decision and its commit: what comes of it, and that each list that changed says so."""
        self.settle()
        before = self.lists()
        try:
            changes = self.state.decide(command, self.now, WALL)
        except UnknownInstance:
            return
        self.now += seconds
        done: list[Change] = []
        if swept:
            done += self.state.commit(self.state.ended(self.now, WALL), self.now, WALL)
        done += self.state.commit(changes, self.now, WALL)
        after = self.lists()
        told = {change.instance.service_name for change in done}
        assert {name for name in before if before[name] != after[name]} <= told
        self.state.commit(self.state.ended(self.now, WALL), self.now, WALL)  # by a verdict that may be there already
        self.adopt()

    def lists(self) -> dict[str, object]:
        """What a reader of each service would see."""
        return {
            name: [(lease.instance, lease.status, lease.suspicion) for lease in self.state.leases(name)]
            for name in ("users", "timelines")
        }

    def adopt(self) -> None:
        """Takes the state as it is for the model: the other rules have shown that it is right."""
        self.model, self.laid = {}, {i: laid for i, laid in self.laid.items() if laid.ends > self.now}
        for name in ("users", "timelines"):
            service = self.state.service(name)
            self.expired[name] = dict(service.silence._expired) if service and service.silence else {}
            for lease in self.state.leases(name):
                instance, laid = lease.instance, lease.override
                self.model[instance.instance_id] = Entry(
                    name, instance.status, instance.ttl, instance.generation, lease.expires_at,
                    lease.suspicion is not None,
                )  # fmt: skip
                self.last_generation[instance.instance_id] = instance.generation
                self.laid.pop(instance.instance_id, None)
                if laid is not None:
                    ends = math.inf if laid.ends_at is None else laid.ends_at
                    self.laid[instance.instance_id] = Laid(laid.status, ends)

    @rule()
    def sweep(self) -> None:
        self.settle()

    @invariant()
    def nothing_ends_before_the_next_end(self) -> None:
        assert all(entry.ends >= self.state.next_end(-math.inf) for entry in self.model.values())
        assert all(laid.ends >= self.state.next_end(-math.inf) for i, laid in self.laid.items() if i in self.model)

    @invariant()
    def all_that_is_promised_holds(self) -> None:
        self.state.check()

    @invariant()
    def what_is_listed_is_what_the_model_has(self) -> None:
        assert len(self.state) == len(self.model)
        for name in ("users", "timelines"):
            there = {i: e for i, e in self.model.items() if e.service_name == name}
            listed = {lease.instance.instance_id for lease in self.state.leases(name) if lease.status == "up"}
            assert listed == {i for i in there if self.seen(i) == "up"}
            count = self.state.services().get(name)
            assert (count.count if count else 0) == len(there)
        for instance_id, entry in self.model.items():
            lease = self.state.lease(instance_id)
            assert (lease.expires_at, lease.instance.generation) == (entry.ends, entry.generation)
            assert (lease.instance.ttl, lease.instance.status) == (entry.ttl, entry.status)
            assert lease.status == self.seen(instance_id)
            assert (lease.suspicion is not None) == entry.is_suspect
