"""A local copy of the instances of one service, kept by the events of /watch, and the choice among them. Knows no
socket and starts no thread; the clock is handed in. A shell feeds it with bytes.

A copy is as old as its `age` or newer, never older: it counts from a moment at which nothing of what it has heard last
had come yet, and only what proves that nothing is missing makes it young again.
"""

import logging
import math
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from registryd.client.answers import no_events
from registryd.client.choices import POLICIES, Instance, Pending, Policy, Ring, by_weight, candidates, in_turn
from registryd.client.errors import NoInstances, RegistrydError
from registryd.client.events import Event, Parser
from registryd.client.registries import without_secret

logger = logging.getLogger("registryd.client")

#: Seconds before the second try when no registry can be reached; doubled from try to try, up to the longest.
FIRST_RETRY = 0.5
LONGEST_RETRY = 5.0
#: Failures in a row after which another registry is tried: those who have registered with the one that merely restarts
#: are still there.
PATIENCE = 3
#: Seconds for which an instance is passed over that was said to be failing, unless told otherwise.
FAILING = 10.0


class LocalCopy:
    """What is known of a service. `zone` is ours, whose instances are taken as long as there are any. Any thread may
    look up; one alone feeds."""

    def __init__(
        self,
        service_name: str,
        policy: Policy,
        zone: str,
        clock: Callable[[], float],
        dice: random.Random,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"there is no policy {policy!r}; there are {', '.join(POLICIES)}")
        self.service_name = service_name
        #: What has gone wrong since the registry was last heard.
        self.trouble: RegistrydError | None = None
        #: Seconds to wait before the next stream is opened.
        self.wait = 0.0
        self._policy = policy
        self._zone = zone
        self._clock = clock
        self._dice = dice
        self._failures = 0
        # The stream: of which registry, how far, and whether all is known that it will tell of the past.
        self._url = ""
        self._index: int | None = None
        self._parser = Parser()
        self._partial_since: float | None = None
        self._asked_at = 0.0
        self._index_then: int | None = None
        self._is_open = self._is_begun = self._has_caught_up = False
        self._heard_at = -math.inf
        #: The same of what is being taken: it is heard when whoever looks up sees it.
        self._hearing_at = -math.inf
        # The instances, whatever their status. Those of which a registry that has lost its memory has not heard yet
        # are kept until some moment.
        self._known: dict[str, Instance] = {}
        self._kept_until: dict[str, float] = {}
        self._failing_until: dict[str, float] = {}
        # What is made of them.
        self._lock = threading.RLock()
        self._pending = Pending()
        self._ring = Ring()
        self._ring_of: tuple[Instance, ...] = ()
        self._instances: tuple[Instance, ...] = ()
        self._among: tuple[Instance, ...] = ()
        self._choose: Callable[[], Instance] = self._nobody
        #: When something ends that time ends; None: never.
        self._review_at: float | None = None

    # For whoever looks up.

    @property
    def age(self) -> float:
        """Seconds since it was last known to be current; infinite until a registry has been heard."""
        return self._clock() - self._heard_at

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Those that are up, in order of registration."""
        if self._review_at is not None and self._clock() >= self._review_at:
            self._review()
        return self._instances

    def pick(self, key: str | None = None) -> Instance:
        """One that is up, by the policy; with a key always the same, as long as it is there (consistent hashing). Those
        that are failing or suspect, of another zone or of weight 0 are passed over as long as there are others. Raises
        NoInstances."""
        if self._review_at is not None and self._clock() >= self._review_at:
            self._review()
        return self._choose() if key is None else self._find(key)

    def acquire(self, key: str | None = None) -> "Use":
        """`with users.acquire() as instance:` picks one, and counts what is under way there until the end of the block,
        which the policy least_pending goes by. Raises NoInstances."""
        if self._review_at is not None and self._clock() >= self._review_at:
            self._review()
        return Use(self._begin, self._end, key)

    def failing(self, instance: Instance, seconds: float = FAILING) -> None:
        """Has an instance passed over for some seconds, as long as there are others: here alone, nobody else hears of
        it. A new registration under its id ends that."""
        with self._lock:
            self._failing_until[instance.instance_id] = self._clock() + seconds
            self._rebuild()

    # For the shell.

    @property
    def is_known(self) -> bool:
        """Whether a registry has ever told."""
        return self._heard_at > -math.inf

    @property
    def is_open(self) -> bool:
        """Whether there is a stream."""
        return self._is_open

    def resume_from(self, url: str) -> int | None:
        """The Last-Event-ID for a stream of this registry; None for one that may not know what it means."""
        return self._index if url == self._url else None

    def opened(self, url: str, asked_at: float, index: int | None) -> None:
        """A stream begins, which was asked for at a moment; `index` is that of the whole registry, if it told."""
        with self._lock:
            if url != self._url:
                self._index = None
            self._url, self._asked_at, self._index_then = url, asked_at, index
            self._parser, self._partial_since = Parser(), None
            self._is_open, self._is_begun, self._has_caught_up = True, False, False
            self._rebuild()

    def feed(self, data: bytes, heard_at: float) -> None:
        """Takes what has come on the stream, of which nothing had come at `heard_at`. Raises NotARegistry."""
        with self._lock:
            since = heard_at if self._partial_since is None else self._partial_since
            has_changed = False
            try:
                for event in self._parser.feed(data):
                    has_changed |= self._take(event, since)
                    since = heard_at
            except ValueError as error:
                raise no_events(self._url, error) from error
            self._partial_since = since if self._parser.is_amid else None
            if has_changed or (self._review_at is not None and self._clock() >= self._review_at):
                self._rebuild()
            self._heard_at = self._hearing_at

    def ended(self, trouble: RegistrydError | None = None) -> bool:
        """The stream is over, or there was none: what is known stays. Come again after `wait` seconds; gives back
        whether to another registry."""
        with self._lock:
            if trouble is not None:
                level = logging.WARNING if self.trouble is None else logging.DEBUG  # it is said once
                logger.log(level, "%s; keeping what is known of service=%s", trouble, self.service_name)
            self.trouble = trouble
            self._is_open = False
            self.wait = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(self._failures, 16)) * self._dice.uniform(0.5, 1.0)
            self._failures += 1
            self._rebuild()
            return self._failures >= PATIENCE or not self.is_known

    def _take(self, event: Event, heard_at: float) -> bool:
        """Gives back whether the instances may have changed. Raises ValueError."""
        is_first, self._is_begun = not self._is_begun, True
        if event.kind == "snapshot":
            self._take_snapshot(event)
            self._has_caught_up = True
            self._hear(self._asked_at if is_first else heard_at)
            return True
        if event.kind == "":
            # The registry sends one where there is nothing to tell, so that nothing is missing then. Only the first
            # one tells that it goes on where we were: there may be more to come of what we have missed.
            self._has_caught_up = self._is_current() or (not is_first and self._index is not None)
            if self._has_caught_up:
                self._hear(self._asked_at if is_first else heard_at)
            return is_first  # as time goes on for those who are kept for a while
        has_changed = self._change(event)
        self._index = event.index if event.index is not None else self._index
        self._has_caught_up = self._has_caught_up or self._is_current()
        if self._has_caught_up:
            self._hear(heard_at)
        return has_changed

    def _is_current(self) -> bool:
        """Whether we are as far as the whole registry was when the stream began."""
        return self._index is not None and self._index_then is not None and self._index >= self._index_then

    def _hear(self, at: float) -> None:
        self._hearing_at = max(self._hearing_at, at)
        if self._failures:
            logger.info("service=%s is watched at %s again", self.service_name, without_secret(self._url))
        self._failures = 0
        self.trouble = None

    def _change(self, event: Event) -> bool:
        if event.kind not in ("registered", "updated", "deregistered", "expired"):
            return False  # of a later registry
        instance = Instance.of(event.data)
        if instance.service_name != self.service_name:
            return False
        instance_id = instance.instance_id
        self._kept_until.pop(instance_id, None)
        if event.kind in ("deregistered", "expired"):
            self._known.pop(instance_id, None)
            self._failing_until.pop(instance_id, None)
            return True
        if event.kind == "registered":
            self._failing_until.pop(instance_id, None)
        self._known[instance_id] = instance
        return True

    def _take_snapshot(self, event: Event) -> None:
        """What a snapshot does not have is gone. But a registry that knows none of the registrations that we know has
        lost its memory, or is another one: those instances may merely not have registered again yet. They have one ttl
        for it, as their heartbeats come more often than that."""
        listed = event.data.get("instances") if isinstance(event.data, dict) else None
        if listed is None or not isinstance(listed, list):
            raise ValueError("a snapshot has no instances")
        there = {one.instance_id: one for one in map(Instance.of, listed)}
        there = {name: one for name, one in there.items() if one.service_name == self.service_name}
        before, now = self._known, self._clock()
        remembers = any(_life(one) == _life(before.get(name)) for name, one in there.items())
        missing = {} if remembers else {name: one for name, one in before.items() if name not in there}
        self._kept_until = {name: now + one.ttl for name, one in missing.items()}
        self._known = missing | there
        self._failing_until = {name: at for name, at in self._failing_until.items() if name in self._known}
        self._index = event.index

    # What is made of it.

    def _review(self) -> None:
        with self._lock:
            self._rebuild()

    def _rebuild(self) -> None:
        now = self._clock()
        is_told = self._is_open and self._is_begun  # while the registry is away everything stays
        if is_told:
            for name in [name for name, until in self._kept_until.items() if until <= now]:
                del self._kept_until[name], self._known[name]
        self._failing_until = {name: until for name, until in self._failing_until.items() if until > now}
        ends = [*self._failing_until.values(), *(self._kept_until.values() if is_told else ())]
        self._instances = tuple(one for one in self._known.values() if one.status == "up")
        self._among = among = candidates(self._instances, self._failing_until, self._zone)
        self._pending.change(among)
        if not among:
            self._choose = self._nobody
        elif self._policy == "round_robin":
            self._choose = in_turn(among, self._dice)
        elif self._policy == "weighted_random":
            self._choose = by_weight(among, self._dice)
        else:
            self._choose = self._least
        self._review_at = min(ends, default=None)

    def _least(self) -> Instance:
        with self._lock:
            if self._among:
                return self._pending.least()
        return self._nobody()

    def _find(self, key: str) -> Instance:
        if self._ring_of is not self._among:
            with self._lock:
                self._ring.change(self._among)
                self._ring_of = self._among
        try:
            return self._ring.find(key)
        except IndexError:
            return self._nobody()

    def _nobody(self) -> NoReturn:
        if not self.is_known:
            why = f": {self.trouble}" if self.trouble else ""
            raise NoInstances(f"nothing is known of {self.service_name!r} yet, as no registry has told{why}")
        raise NoInstances(f"no instance of {self.service_name!r} is up; the registry was heard {self.age:.0f} s ago")

    def _begin(self, key: str | None) -> Instance:
        with self._lock:
            instance = self._choose() if key is None else self._find(key)
            self._pending.begin(instance)
            return instance

    def _end(self, instance: Instance) -> None:
        with self._lock:
            self._pending.end(instance)


class Use:
    """An instance that something is under way at, for the length of a `with`."""

    __slots__ = ("_begin", "_end", "_instance", "_key")

    def __init__(
        self, begin: Callable[[str | None], Instance], end: Callable[[Instance], None], key: str | None
    ) -> None:
        self._begin = begin
        self._end = end
        self._key = key

    def __enter__(self) -> Instance:
        self._instance = self._begin(self._key)
        return self._instance

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self._instance)


def _life(instance: Instance | None) -> tuple[str, int] | None:
    """Which registration of its id this is."""
    return None if instance is None else (instance.registered_at, instance.generation)
