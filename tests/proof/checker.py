"""Decides whether some order of one registry explains what its clients have sent and got.

**The model.** A registry is a number of services, each a number of ids. An id is registered or not, has a generation
that grows by one with each registration, and while it is registered a lease. Each operation takes effect at one
moment between its invocation and its answer (linearizability: Herlihy and Wing, 1990). One without an answer takes
effect at such a moment, later, or never. So there must be an order of all operations that contradicts no clock and in
which each answer is what the model gives:

- `register` is answered with the next generation, and nothing else makes one.
- `heartbeat` and `deregister` are answered `ok` if and only if the id is registered (and with the generation, where
  they name one), else `unknown_instance` or `stale_generation`. `deregister` gives back the registration that it has
  ended.
- `lookup` gives exactly the ids of a service that are registered, each as the last registration has left it, all of
  them at one moment: two lookups that see two changes in different orders have no common order with them.
- The index of a service is another one if and only if its list has changed, and grows; that of the whole registry is
  never below one that was answered before the question. No restart takes it back.
- A lease ends its ttl after the last registration or heartbeat, neither before nor after, on the registry's lease
  clock: the monotonic clock less the seconds of stalls, which `/status` tells. When a renewal took effect is known up
  to its invocation and answer, and so is the end of the lease: between the two ends an instance may be listed or not,
  before the first it must be, from the second on it must not, and no heartbeat brings it back. There is no other
  tolerance, but for the millisecond to which the registry rounds what it says of stalls. A stop that was longer than a
  second is among those, all of it.
- After a kill all is as it was answered, each lease anew for its ttl from some moment of the start on. What had no
  answer is done or not. What a failing disk has refused last may turn out to be done, if no change came after it. That
  a lease has ended may be forgotten, if nothing was answered since that has been written after it.

**Why this suffices.** A history is linearizable if and only if that of each object is (locality, in the same paper),
and ids never move to another service here, so each service is judged by itself, with all its ids, as lists show them
together. Lookups name the registration that they have seen (each has a base_url of its own), so what is not explained
by the one order is not explained by chance.

**How.** Answers are taken in the order in which they came (just-in-time linearization: Lowe, 2017, after Wing and
Gong, 1993). There is a set of situations that the registry may be in: its state, and which of the operations under
way have taken effect. At each answer every situation goes on in all ways in which that operation has taken effect by
then; where no situation is left, there is no order. A situation that is reached twice is kept once, and an operation
that changes nothing takes effect as soon as it can. That the end of a lease has come is decided when an answer needs
it.

An operation that got no answer is open until it is proven to be over, which spares the set: a heartbeat, when two
calls of `/status` in a row, each on a new connection, were answered after the client had reset its connection (the
registry takes what comes in order); a change, when a later one of the same id was answered (those wait for each
other); all, when that life of the registry has ended. Until then such a heartbeat may have renewed the lease, and
nothing more is made of it. Such a registration that was seen later counts as answered by then; one that was not has
never been, where each generation from before it was asked for until after it was over is another's.

**Not checked**: statuses, overrides, reports and other contents of an instance; ids that move between services;
choices (`tag=`, `pick=` ...), `/watch`, long polls, `POST /heartbeats`, access control; that an answer comes soon;
the order within a list.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from proof.history import CHANGES, Life, Operation, Registration

from registryd.clock import AWAY

#: Seconds by which what `/status` says of stalls is rounded, both ways.
ROUNDING = 0.001
#: Generations of an id that are kept, to tell what became of registrations without an answer.
KEPT_CLAIMS = 1_000
#: Situations beyond which nothing is decided.
MOST_SITUATIONS = 20_000


class Violation(Exception):
    """No order explains a history; the text is a counterexample."""


class Undecided(Exception):
    """There are too many ways to explain a history."""


class Timed(NamedTuple):
    """An operation, and between which moments of the lease clock it took effect."""

    operation: Operation
    since: float
    until: float


class Entry(NamedTuple):
    """An id in one situation."""

    is_there: bool = False
    generation: int = 0
    #: The operations that have registered and last renewed it.
    registered_by: int = 0
    renewed_by: int = 0
    ttl: float = 0.0
    #: Its lease ends between these moments of the lease clock.
    ends_since: float = 0.0
    ends_until: float = 0.0
    #: Whether the state on the disk says so, too.
    is_saved: bool = True

    def gone(self) -> "Entry":
        """After a deregistration, or an end of the lease that the disk knows of."""
        return Entry(generation=self.generation)

    def may_have_ended(self, moment: float) -> bool:
        return self.ends_since <= moment + ROUNDING


class State(NamedTuple):
    """A service in one situation: its ids, by position; the last index seen, and whether the list has changed since."""

    entries: tuple[Entry, ...] = ()
    seen: int = 0
    is_new: bool = True

    def replace(self, place: int, entry: Entry) -> "State":
        entries = (*self.entries[:place], entry, *self.entries[place + 1 :])
        return self._replace(entries=entries, is_new=True)


class Refusal(NamedTuple):
    """Why an operation cannot take effect in a state: the id that is in the way, if it is one, and a reason."""

    instance_id: str
    reason: str


#: Something that happens: when, its rank among what happens at the same moment, what it is, and to what.
Event = tuple[float, int, str, Operation | tuple[Life, Life]]
#: A state, and the operations under way that have taken effect in it.
Situation = tuple[State, frozenset[int]]


class Service:
    """All that the registry may be, as far as one service goes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._places: dict[str, int] = {}
        self.situations: set[Situation] = {(State(), frozenset())}
        #: What is under way: invoked and not answered.
        self._pending: dict[int, Timed] = {}
        self._refused: list[Operation] = []
        #: Heartbeats without an answer, by id.
        self._perhaps: dict[str, list[Timed]] = {}
        self._refusals: set[Refusal] = set()

    def begin(self, timed: Timed) -> None:
        """An operation was invoked."""
        operation = timed.operation
        self._know(operation)
        if (operation.kind, operation.outcome) == ("heartbeat", "unknown"):
            self._perhaps.setdefault(operation.instance_id, []).append(timed)
        else:
            self._pending[operation.number] = timed

    def _know(self, operation: Operation) -> None:
        """Makes places for ids that are new."""
        for instance_id in filter(None, [operation.instance_id, *operation.listed]):
            if instance_id not in self._places:
                self._places[instance_id] = len(self._places)
                self.situations = {
                    (state._replace(entries=(*state.entries, Entry())), done) for state, done in self.situations
                }

    def answer(self, operation: Operation) -> None:
        """An operation was answered: it must have taken effect. Raises Violation, Undecided."""
        timed = self._pending[operation.number]
        self._refusals = set()
        after: set[Situation] = set()
        for situation in self.situations:
            after |= self._ways(situation, timed)
        if not after:
            raise Violation(self._explain(timed))
        self.situations = after
        del self._pending[operation.number]
        if operation.kind in CHANGES and operation.outcome == "ok":  # the disk takes what it is given again
            self._forget_refused(operation)
        if operation.kind in ("register", "heartbeat") and operation.outcome == "ok":  # its lease is not shorter
            perhaps = self._perhaps.get(operation.instance_id, [])
            self._perhaps[operation.instance_id] = [one for one in perhaps if one.until > timed.since]

    def refuse(self, operation: Operation) -> None:
        """The disk did not take a change."""
        self._know(operation)
        self._forget_refused(operation)
        self._refused.append(operation)

    def _forget_refused(self, operation: Operation) -> None:
        """What was refused before another change was asked for was not refused last, and never will be done."""
        self._refused = [one for one in self._refused if one.ended > operation.invoked]

    def close(self, operation: Operation, moment: float) -> None:
        """An operation without an answer is over: if it has not taken effect by that moment it never will."""
        if operation.kind == "heartbeat":
            perhaps = self._perhaps.get(operation.instance_id, [])
            closed = [one._replace(until=moment) if one.operation is operation else one for one in perhaps]
            self._perhaps[operation.instance_id] = closed
            return
        number = operation.number
        timed = self._pending[number] = self._pending[number]._replace(until=moment)
        after = {(state, done - {number}) for state, done in self.situations}
        for situation in self.situations:
            after |= self._ways(situation, timed)
        del self._pending[number]
        self.situations = after

    def _must_have_ended(self, instance_id: str, entry: Entry, moment: float) -> bool:
        """Whether a lease has ended by then, even if heartbeats without an answer have renewed it."""
        until = entry.ends_until
        for timed in self._perhaps.get(instance_id, ()):
            if timed.since < until:
                until = max(until, timed.until + entry.ttl)
        return until + ROUNDING <= moment

    def restart(self, dead: float, life: Life) -> None:
        """The registry was killed and began anew; `dead` is when, on the lease clock of the life that has ended."""
        pending = [timed for timed in self._pending.values() if timed.operation.kind in CHANGES]
        pending += [Timed(operation, dead, dead) for operation in self._refused]
        after: set[State] = set()
        for situation in self.situations:
            entries = [self._restored(situation, name, pending, dead, life) for name in self._places]
            after |= {State(one, situation[0].seen) for one in itertools.product(*entries)}
            if len(after) > MOST_SITUATIONS:
                raise Undecided(f"service {self.name} may be in {len(after)} situations after a restart")
        self.situations = {(state, frozenset()) for state in after}
        self._pending, self._refused, self._perhaps = {}, [], {}

    def _restored(
        self, situation: Situation, instance_id: str, pending: Iterable[Timed], dead: float, life: Life
    ) -> set[Entry]:
        """What may become of an id in the next life, when all that was under way is done or never will be. It has
        nothing to do with other ids, as nobody looks."""
        self._pending = {one.operation.number: one for one in pending if one.operation.instance_id == instance_id}
        place = self._places[instance_id]
        entries = {state.entries[place] for state, _ in self._reach(situation, None, dead)}
        return {back for entry in entries for back in _restored(entry, dead, life)}

    def _ways(self, situation: Situation, wanted: Timed) -> set[Situation]:
        """The situations after an operation has taken effect, if it had not."""
        state, done = situation
        number = wanted.operation.number
        if number in done:
            return {(state, done - {number})}
        reached = self._reach(situation, wanted, wanted.until)
        return {(state, done - {number}) for state, done in reached if number in done}

    def _reach(self, situation: Situation, wanted: Timed | None, moment: float) -> Iterator[Situation]:
        """All situations that follow when operations under way take effect one after the other, by `moment`, until the
        wanted one has."""
        seen, stack = {situation}, [situation]
        while stack:
            state, done = self._absorb(*stack.pop(), moment)
            yield state, done
            if wanted is not None and wanted.operation.number in done:
                continue
            for number, timed in self._pending.items():
                if number in done:
                    continue
                after = self._take(state, timed, moment)
                if isinstance(after, Refusal):
                    if timed is wanted:
                        self._refusals.add(after)
                elif (reached := (after, done | {number})) not in seen:
                    seen.add(reached)
                    if len(seen) > MOST_SITUATIONS:
                        raise Undecided(
                            f"service {self.name} may be in {len(seen)} situations around {timed.operation}"
                        )
                    stack.append(reached)

    def _absorb(self, state: State, done: frozenset[int], moment: float) -> Situation:
        """Has all take effect that changes nothing: sooner is never worse."""
        absorbed = [
            number
            for number, timed in self._pending.items()
            if number not in done and timed.operation.outcome != "unknown" and self._take(state, timed, moment) == state
        ]
        return state, done.union(absorbed) if absorbed else done

    def _take(self, state: State, timed: Timed, moment: float) -> State | Refusal:
        """The state after an operation, which takes effect by `moment` of the lease clock."""
        timed = timed._replace(until=min(timed.until, moment)) if timed.operation.outcome == "unknown" else timed
        operation = timed.operation
        if operation.kind == "lookup":
            return self._look_up(state, timed, min(moment, timed.until))
        place = self._places[operation.instance_id]
        entry = state.entries[place]
        if operation.outcome == "unknown_instance":
            gone = _ended(entry, min(moment, timed.until))
            if gone is None:
                return Refusal(operation.instance_id, _alive(entry))
            return state if gone is entry else state.replace(place, gone)
        if operation.kind == "register":
            return self._register(self._saved(state, timed), place, timed)
        refusal = self._refusal(entry, timed)
        if refusal is not None:
            return Refusal(operation.instance_id, refusal)
        if operation.outcome == "stale_generation":
            return state
        if operation.kind == "heartbeat":
            return state._replace(entries=state.replace(place, _renewed(entry, timed)).entries)
        return self._saved(state, timed).replace(place, entry.gone())

    def _register(self, state: State, place: int, timed: Timed) -> State | Refusal:
        operation, generation = timed.operation, state.entries[place].generation + 1
        if operation.outcome == "ok" and operation.found != Registration(operation.number, generation):
            return Refusal(operation.instance_id, f"it would be generation {generation} of #{operation.number}")
        ttl, number = operation.ttl, operation.number
        return state.replace(
            place, Entry(True, generation, number, number, ttl, timed.since + ttl, timed.until + ttl, True)
        )

    def _look_up(self, state: State, timed: Timed, moment: float) -> State | Refusal:
        operation = timed.operation
        for instance_id, place in self._places.items():
            entry, found = state.entries[place], operation.listed.get(instance_id)
            if found is None:
                gone = _ended(entry, moment)
                if gone is None:
                    return Refusal(instance_id, f"{_alive(entry)}, so it must be listed")
                if gone is not entry:
                    state = state.replace(place, gone)
            elif not entry.is_there:
                return Refusal(instance_id, "it is not registered, so it must not be listed")
            elif self._must_have_ended(instance_id, entry, timed.since):
                return Refusal(instance_id, f"{_alive(entry)}, so it must not be listed any more")
            elif found != (wanted := Registration(entry.registered_by, entry.generation)):
                return Refusal(instance_id, f"it is generation {wanted.generation}, registered by #{wanted.number}")
        if operation.index < state.seen or (operation.index == state.seen) == state.is_new:
            changed = "has changed" if state.is_new else "is the same"
            return Refusal("", f"its list {changed} since it had index {state.seen}")
        return state._replace(seen=operation.index, is_new=False)

    def _refusal(self, entry: Entry, timed: Timed) -> str | None:
        """Why what needs a registered id cannot have been answered as it was."""
        operation = timed.operation
        if not entry.is_there:
            return "it is not registered"
        if self._must_have_ended(operation.instance_id, entry, timed.since):
            return f"{_alive(entry)}, which was before"
        is_stale = operation.generation not in (None, entry.generation)
        if is_stale != (operation.outcome == "stale_generation"):
            return f"it is generation {entry.generation}"
        found = operation.found
        if found is not None and found != Registration(entry.registered_by, entry.generation):
            return f"it is generation {entry.generation}, registered by #{entry.registered_by}"
        return None

    def _saved(self, state: State, timed: Timed) -> State:
        """A change that is answered is written, and before it all ends of leases that had come when it was asked
        for."""
        if timed.operation.outcome != "ok":
            return state
        entries = [
            entry.gone() if entry.ttl and self._must_have_ended(name, entry, timed.since) else entry
            for name, entry in zip(self._places, state.entries, strict=True)
        ]
        return state._replace(entries=tuple(entries))

    def _explain(self, wanted: Timed) -> str:
        refusals = sorted(self._refusals)
        lines = [f"  {one.instance_id or self.name}: {one.reason}" for one in refusals[:6]]
        if len(refusals) > len(lines):
            lines.append(f"  (and {len(refusals) - len(lines)} more)")
        return "\n".join(["no order of one registry explains:", f"  {wanted.operation}", "since then", *lines])

    def concerned(self) -> set[str]:
        """The ids that were in the way of the operation that could not be explained."""
        return {refusal.instance_id for refusal in self._refusals if refusal.instance_id} or set(self._places)

    def named(self) -> set[int]:
        """The operations that have registered and renewed those ids, in any situation."""
        places = [self._places[instance_id] for instance_id in self.concerned()]
        entries = [state.entries[place] for state, _ in self.situations for place in places]
        return {number for entry in entries for number in (entry.registered_by, entry.renewed_by)}


def _alive(entry: Entry) -> str:
    lease = f"lease ends between {entry.ends_since:.4f} and {entry.ends_until:.4f}"
    return f"it is generation {entry.generation}, registered by #{entry.registered_by}, its {lease}"


def _ended(entry: Entry, moment: float) -> Entry | None:
    """The entry without its lease, where that may have ended by then; None where it cannot."""
    if not entry.is_there:
        return entry
    return entry._replace(is_there=False, is_saved=False) if entry.may_have_ended(moment) else None


def _renewed(entry: Entry, timed: Timed) -> Entry:
    """With a lease that ends its ttl after a heartbeat. The order of several does not matter: none makes it shorter."""
    since, until = max(entry.ends_since, timed.since + entry.ttl), max(entry.ends_until, timed.until + entry.ttl)
    by = entry.renewed_by if until == entry.ends_until else timed.operation.number
    return entry._replace(ends_since=since, ends_until=until, renewed_by=by)


def _restored(entry: Entry, dead: float, life: Life) -> list[Entry]:
    """What may become of an id in the next life."""
    back = entry._replace(
        is_there=True,
        is_saved=True,
        renewed_by=0,
        ends_since=life.spawned + entry.ttl,
        ends_until=life.ready + entry.ttl,
    )
    if not entry.is_there:
        return [entry.gone()] if entry.is_saved else [entry.gone(), back]
    return [back, entry.gone()] if entry.may_have_ended(dead) else [back]


class LeaseClock:
    """The lease clock of one life, as far as what `/status` says of stalls tells."""

    def __init__(self, life: Life) -> None:
        #: When each was asked and answered, and how many seconds of stalls it told. The first is the start.
        self._asked, self._answered, self._stalled = [life.spawned], [life.ready], [0.0]

    def learn(self, status: Operation) -> None:
        """One answer after the other."""
        self._asked.append(status.invoked)
        self._answered.append(status.ended)
        self._stalled.append(status.stalled)

    def no_earlier(self, moment: float) -> float:
        """What it showed at a moment, at least: who asked next knew of all stalls by then; it never goes back; and it
        does not stand still for less than `AWAY`."""
        after = bisect.bisect_left(self._asked, moment)
        before = max(0, bisect.bisect_right(self._answered, moment) - 1)
        since = moment if moment - self._asked[before] < AWAY else self._asked[before]
        at_least = since - self._stalled[before]
        return max(at_least, moment - self._stalled[after]) if after < len(self._asked) else at_least

    def no_later(self, moment: float) -> float:
        """What it showed at a moment, at most."""
        return moment - self._stalled[max(0, bisect.bisect_right(self._answered, moment) - 1)]

    def must_know(self, since: float, until: float) -> None:
        """The registry was stopped between two moments, and must tell that it was. Raises Violation."""
        before, after = bisect.bisect_right(self._answered, since) - 1, bisect.bisect_left(self._asked, until)
        if after < len(self._asked) and self._stalled[after] - self._stalled[before] < until - since - ROUNDING:
            raise Violation(
                f"it was stopped for {until - since:.3f} s from {since:.4f} on, and tells of stalls of "
                f"{self._stalled[before]:.3f} s before and {self._stalled[after]:.3f} s after"
            )

    def over(self, given_up: float) -> float:
        """When a heartbeat without an answer was over: the second answer in a row after it was given up."""
        first = bisect.bisect_left(self._asked, given_up)
        return self._answered[first + 1] if first + 1 < len(self._asked) else math.inf


class Indices:
    """No index is below one that was answered, for the same list or the whole registry, before the question."""

    def __init__(self) -> None:
        self._highest: dict[str, int] = {}

    def check(self, operations: Iterable[Operation]) -> int:
        """Operations in which all that is before one of them in time is there, or was checked before. Gives back how
        many were. Raises Violation."""
        reads = [one for one in operations if one.index]
        moments = [(one.invoked, 0, one) for one in reads] + [(one.ended, 1, one) for one in reads]
        asked: dict[int, int] = {}
        for _, is_answer, read in sorted(moments, key=lambda moment: moment[:2]):
            if not is_answer:
                asked[read.number] = self._highest.get(read.service, 0)
            elif read.index < asked[read.number]:
                raise Violation(f"the index was {asked[read.number]} before, and now it is {read.index}:\n  {read}")
            else:  # that of the whole registry, whose name is empty here, is never below that of a service
                for scope in {read.service, ""}:
                    self._highest[scope] = max(self._highest.get(scope, 0), read.index)
        return len(reads)


class Checker:
    """Judges a history as it grows. What was fed must have ended before what comes next was invoked, and an answer of
    `/status` comes last, or less is known of when leases end."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self._clocks: dict[int, LeaseClock] = {}
        self._indices = Indices()
        #: Operations without an answer that may still take effect.
        self._open: list[Operation] = []
        #: Which generations are known to be whose, by id: the last ones.
        self._claims: dict[str, dict[int, Operation]] = {}
        self._restarts = 0
        self._recent: list[Operation] = []
        #: How many answers were explained, indices compared, and situations there were at most.
        self.explained = 0
        self.compared = 0
        self.most_situations = 1

    def feed(self, operations: Sequence[Operation], lives: Sequence[Life]) -> None:
        """Raises Violation, Undecided."""
        for life in lives:
            self._clocks.setdefault(life.number, LeaseClock(life))
        dead = {life.number: math.inf if life.dead is None else life.dead for life in lives}
        # What is answered by a life was answered before its end, even if it was read later.
        operations = [_clamped(one, dead[one.life]) for one in operations if one.invoked < dead[one.life]]
        for status in sorted((one for one in operations if one.kind == "status"), key=lambda one: one.invoked):
            if status.outcome == "ok":
                self._clocks[status.life].learn(status)
        for life in lives:
            for since, until in life.stopped:
                self._clocks[life.number].must_know(since, until)
        self.compared += self._indices.check(operations)
        asked = [one for one in operations if one.kind != "status" and (one.kind, one.outcome) != ("lookup", "unknown")]
        asked = self._resolved(asked, dead)
        self._recent = [*self._recent[-5000:], *asked]
        events: list[Event] = [*self._begins_and_answers(asked), *self._closings(asked), *self._restarts_in(lives)]
        for moment, _, what, subject in sorted(events, key=lambda event: event[:2]):
            self._happen(moment, what, subject)

    def _happen(self, moment: float, what: str, subject: Operation | tuple[Life, Life]) -> None:
        if not isinstance(subject, Operation):
            self._restart(*subject)
            return
        service = self.services.setdefault(subject.service, Service(subject.service))
        if what == "begin":
            service.begin(self._timed(subject))
        elif what == "close":
            service.close(subject, self._clocks[subject.life].no_later(moment))
        elif subject.outcome == "store_unavailable":
            service.refuse(subject)
        else:
            try:
                service.answer(subject)
            except Violation as violation:
                raise Violation(f"{violation}\nwhat there was before:\n{self._before(service, subject)}") from None
            self.explained += 1
            self.most_situations = max(self.most_situations, len(service.situations))

    def _restart(self, before: Life, after: Life) -> None:
        assert before.dead is not None
        clock = self._clocks[before.number]
        for service in self.services.values():
            service.restart(clock.no_later(before.dead), after)

    def _timed(self, operation: Operation) -> Timed:
        clock = self._clocks[operation.life]
        is_answered = operation.outcome != "unknown"
        until = clock.no_later(operation.ended) if is_answered else math.inf
        return Timed(operation, clock.no_earlier(operation.invoked), until)

    def _begins_and_answers(self, asked: Sequence[Operation]) -> Iterator[Event]:
        for operation in asked:
            if operation.outcome != "store_unavailable":
                yield operation.invoked, 0, "begin", operation
            if operation.outcome != "unknown":
                yield operation.ended, 1, "answer", operation

    def _closings(self, asked: Sequence[Operation]) -> Iterator[Event]:
        """When each that got no answer was over, as far as is known by now."""
        still: list[Operation] = []
        for operation in [*self._open, *(one for one in asked if one.outcome == "unknown")]:
            if operation.kind in CHANGES:
                over = _over(operation, asked)
            else:
                over = self._clocks[operation.life].over(operation.ended)
            if math.isinf(over):
                still.append(operation)
            else:
                yield over, 2, "close", operation
        self._open = still

    def _resolved(self, asked: Sequence[Operation], dead: dict[int, float]) -> list[Operation]:
        """Registrations without an answer that were seen later have had one. Others have not been done where all
        generations are known to be someone else's: those from before they were asked for until they were over."""
        seen: dict[int, tuple[float, Registration]] = {}
        for one in asked:
            for found in [*one.listed.values(), *([one.found] if one.found else [])]:
                if one.ended < seen.get(found.number, (math.inf, found))[0]:
                    seen[found.number] = one.ended, found
        resolved = [_seen(one, *seen[one.number], dead[one.life]) if one.number in seen else one for one in asked]
        for one in resolved:
            if one.kind == "register" and one.found is not None:
                claims = self._claims.setdefault(one.instance_id, {})
                claims[one.found.generation] = one
        done = [one for one in resolved if not self._never_was(one, min(_over(one, resolved), dead[one.life]))]
        for instance_id, claims in self._claims.items():
            self._claims[instance_id] = dict(sorted(claims.items())[-KEPT_CLAIMS:])
        return done

    def _never_was(self, operation: Operation, over: float) -> bool:
        if (operation.kind, operation.outcome) != ("register", "unknown"):
            return False
        claims = self._claims.get(operation.instance_id, {})
        before = max((number for number, one in claims.items() if one.ended <= operation.invoked), default=0)
        later = (number for number, one in claims.items() if one.invoked >= over and number > before)
        after = min(later, default=0)
        return after > 0 and all(number in claims for number in range(before + 1, after))

    def _restarts_in(self, lives: Sequence[Life]) -> Iterator[Event]:
        for before, after in itertools.pairwise(lives[self._restarts :]):
            assert before.dead is not None, "the next life begins after the end of the last"
            self._restarts += 1
            self._open = [one for one in self._open if one.life > before.number]
            yield before.dead, 3, "restart", (before, after)

    def _before(self, service: Service, wanted: Operation) -> str:
        """The operations of a counterexample: those that have made what was in the way, those that may change it at the
        same time, and the last lookups that have seen it."""
        concerned, named = service.concerned(), service.named()
        before = [
            one
            for one in self._recent
            if one.service == service.name
            and one.invoked < wanted.ended
            and one.number != wanted.number
            and (one.kind == "lookup" or one.instance_id in concerned)
        ]
        lookups = [one for one in before if one.kind == "lookup" and one.ended < wanted.ended]
        shown = {one.number: one for one in [*lookups[-2:], *(one for one in before if one.number in named)]}
        others = [one for one in before if one.kind in CHANGES]
        shown |= {one.number: one for one in [*others[-4:], *(one for one in others if one.ended > wanted.invoked)]}
        return "\n".join(f"  {one}" for one in sorted(shown.values(), key=lambda one: one.ended))


def _clamped(operation: Operation, dead: float) -> Operation:
    if operation.outcome == "unknown" or operation.ended <= dead:
        return operation
    return msgspec.structs.replace(operation, ended=dead)


def _seen(operation: Operation, moment: float, found: Registration, dead: float) -> Operation:
    """A registration that got no answer, and was seen."""
    if operation.outcome != "unknown":
        return operation
    return msgspec.structs.replace(operation, outcome="ok", found=found, ended=min(moment, dead))


def _over(operation: Operation, asked: Iterable[Operation]) -> float:
    """When a change without an answer was over, as a later one of the same id was answered."""
    if operation.outcome != "unknown":
        return operation.ended
    later = (
        one.ended
        for one in asked
        if one.kind in CHANGES
        and one.outcome != "unknown"
        and (one.life, one.instance_id) == (operation.life, operation.instance_id)
        and one.invoked >= operation.ended
    )
    return min(later, default=math.inf)
