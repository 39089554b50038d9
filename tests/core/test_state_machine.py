"""A hypothesis state machine: the core against a model that is too simple to be wrong."""

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import WALL, a_registration, new_state

from registryd.core.errors import StaleGeneration, UnknownInstance
from registryd.core.model import Command, Deregister, Report, Update

IDS = st.sampled_from(["a", "b", "c", "d", "e"])
SERVICES = st.sampled_from(["users", "timelines"])
TTLS = st.sampled_from([1.0, 2.5, 30.0])
STATUSES = st.sampled_from(["up", "starting", "down"])
GENERATIONS = st.one_of(st.none(), st.integers(1, 3))


@dataclass
class Entry:
    """What the model knows of an instance."""

    service_name: str
    status: str
    ttl: float
    generation: int
    ends: float


class CoreAgainstModel(RuleBasedStateMachine):
    """The model is one dictionary; whoever is in it with an end in the past is not there."""

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.state = new_state()
        self.model: dict[str, Entry] = {}

    def alive(self) -> dict[str, Entry]:
        return {name: entry for name, entry in self.model.items() if entry.ends > self.now}

    def settle(self) -> None:
        """What the registry does before everything else."""
        ended = {change.instance.instance_id for change in self.state.ended(self.now)}
        assert ended == self.model.keys() - self.alive().keys()
        self.state.commit(self.state.ended(self.now), self.now, WALL)
        self.model = self.alive()

    def ask(self, command: Command) -> bool:
        """Sends a command whose instance must be known; the model says what has to come of it."""
        assert isinstance(command, Update | Deregister)
        entry = self.model.get(command.instance_id)
        if entry is None:
            with pytest.raises(UnknownInstance):
                self.state.decide(command, WALL)
        elif command.generation not in (None, entry.generation):
            with pytest.raises(StaleGeneration):
                self.state.decide(command, WALL)
        else:
            self.state.commit(self.state.decide(command, WALL), self.now, WALL)
            return True
        return False

    @rule(instance_id=IDS, service_name=SERVICES, ttl=TTLS, status=STATUSES)
    def register(self, instance_id: str, service_name: str, ttl: float, status: str) -> None:
        self.settle()
        before = self.model.get(instance_id)
        command = a_registration(service_name, instance_id, ttl=ttl, status=status)
        changes = self.state.commit(self.state.decide(command, WALL), self.now, WALL)
        assert changes[-1].kind == "registered"
        generation = before.generation + 1 if before else 1
        self.model[instance_id] = Entry(service_name, status, ttl, generation, self.now + ttl)

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
            self.state.renew(self.state.lease(instance_id, generation), self.now, WALL)
            entry.ends = self.now + entry.ttl

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

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.4, 29.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.model)
    @rule()
    def time_passes_to_the_very_end_of_a_lease(self) -> None:
        self.now = max(self.now, min(entry.ends for entry in self.model.values()))

    @rule()
    def sweep(self) -> None:
        self.settle()

    @invariant()
    def nothing_ends_before_the_next_end(self) -> None:
        assert all(entry.ends >= self.state.next_end() for entry in self.model.values())

    @invariant()
    def all_that_is_promised_holds(self) -> None:
        self.state.check()

    @invariant()
    def what_is_listed_is_what_the_model_has(self) -> None:
        assert len(self.state) == len(self.model)
        for name in ("users", "timelines"):
            there = {i: e for i, e in self.model.items() if e.service_name == name}
            listed = {lease.instance.instance_id for lease in self.state.up(name)}
            assert listed == {i for i, e in there.items() if e.status == "up"}
            count = self.state.services().get(name)
            assert (count.count if count else 0) == len(there)
        for instance_id, entry in self.model.items():
            lease = self.state.lease(instance_id)
            assert (lease.expires_at, lease.instance.generation) == (entry.ends, entry.generation)
            assert (lease.instance.ttl, lease.instance.status) == (entry.ttl, entry.status)


TestCoreAgainstModel = CoreAgainstModel.TestCase
TestCoreAgainstModel.settings = settings(max_examples=150, stateful_step_count=40)
