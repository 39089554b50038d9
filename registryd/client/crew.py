"""The registrations of one program with the same registries: they share heartbeats, and go to another registry
together. Knows no socket, no clock and no task.

A shell asks for `next_call`, sends its request, tells what came of it (`answered` or `failed`), and waits for `wait`
seconds. The first request of each, and its farewell, it sends beside these. What becomes of them is said in the log.

A heartbeat for many (`POST /heartbeats`) carries no generations, so it would not tell that another process has taken
over an instance_id, and would keep the other's lease alive. A UUID of ours nobody else can have. An id that the caller
has chosen gets a heartbeat of its own, with its generation, every third time: so within some one ttl whoever is taken
over learns of it, and leaves the other's lease alone.
"""

import json
import logging
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from registryd.client.errors import RegistrationRefused
from registryd.client.registries import Registries, without_secret
from registryd.client.session import JITTER, Phase, Request, Session, json_object

logger = logging.getLogger("registryd.client")

#: Statuses of a farewell after which there is nothing left of us: done, forgotten, or taken over.
_GONE = {200, 404, 409}

#: Ids in one heartbeat for many: so that it is under the limits of any registry, which are on ids and on bytes.
MOST_IDS = 1000
#: Of so many heartbeats one is of its own, for an id that the caller has chosen.
OWN_EACH = 3


class Call(NamedTuple):
    """A request, and those whom it is about: one, or many who share a heartbeat."""

    request: Request
    sessions: Sequence[Session]
    #: Seconds that the answer may take.
    timeout: float

    @property
    def what(self) -> str:
        """What is asked for, as it may be shown."""
        return f"{self.request.method} {self.request.url.removeprefix(self.sessions[0].url).partition('?')[0]}"

    @property
    def is_shared(self) -> bool:
        """Whether it is a heartbeat for many."""
        return len(self.sessions) > 1


class Crew:
    """The registrations that are in, each with the moment at which something is due."""

    def __init__(self, registries: Registries, dice: random.Random) -> None:
        self.registries = registries
        self._dice = dice
        self._due: dict[Session, float] = {}
        #: How many more heartbeats may be shared before one of its own is due.
        self._shareable: dict[Session, int] = {}
        #: Those with whom the last try has failed, which has been said.
        self._troubled: set[Session] = set()

    def first_call(self, session: Session) -> Call:
        """What is to be sent first for one that is to join."""
        return Call(session.next_request(), (session,), session.timeout)

    def join(self, session: Session, now: float) -> None:
        """Takes one in: from now on its requests come from here."""
        self._due[session] = now + session.wait
        self._shareable[session] = self._dice.randrange(OWN_EACH)

    def leave(self, session: Session) -> None:
        """Lets one go."""
        self._due.pop(session, None)
        self._shareable.pop(session, None)

    def __len__(self) -> int:
        return len(self._due)

    def wait(self, now: float) -> float:
        """Seconds until something is due. Not of an empty crew."""
        return max(0.0, min(self._due.values()) - now)

    def next_call(self, now: float) -> Call:
        """What is due first, and with a heartbeat all whose own is not long off. Not of an empty crew."""
        first = min(self._due, key=self._due.__getitem__)
        first.settle()
        if first.phase is not Phase.IN:
            return Call(first.next_request(), (first,), first.timeout)
        sharing = [one for one, due in self._due.items() if due <= now + one.ttl / 6 and self._is_in(one)][:MOST_IDS]
        own = next((one for one in sharing if one.has_chosen_id and self._shareable[one] == 0), None)
        if own is not None or len(sharing) < 2:
            one = own or first
            self._shareable[one] = OWN_EACH - 1
            return Call(one.next_request(), (one,), one.timeout)
        for one in sharing:
            self._shareable[one] = max(0, self._shareable[one] - 1)
        body = json.dumps({"instance_ids": [one.instance_id for one in sharing]}).encode()
        return Call(Request("POST", f"{first.url}/heartbeats", body), sharing, min(one.timeout for one in sharing))

    def answered(self, call: Call, status: int, body: bytes, now: float) -> None:
        """Takes the answer to a call. Raises RegistrationRefused."""
        url, phases = without_secret(self.registries.url), [one.phase for one in call.sessions]
        try:
            if call.is_shared:
                makes_sense = self._shared_answered(call.sessions, status, json_object(body))
            else:
                makes_sense = call.sessions[0].answered(status, body)
        finally:
            self._put_off(call.sessions, now)
        if not makes_sense:
            text = "the registry at %s answers %d to %s; trying again"
            self._say_once(call, text, url, status, without_secret(call.what))
            return
        for one, phase in zip(call.sessions, phases, strict=True):
            if one.phase is Phase.TAKEN_OVER:
                self.leave(one)
                logger.warning("another process has taken over instance=%s: no more heartbeats", one.instance_id)
            elif one.phase is Phase.OUT:
                logger.info("the registry at %s has forgotten instance=%s; registering again", url, one.instance_id)
            elif one.phase is Phase.IN and (phase is Phase.OUT or one in self._troubled):
                logger.info("registered instance=%s at %s", one.instance_id, url)
            self._troubled.discard(one)

    def refused(self, call: Call, error: RegistrationRefused) -> None:
        """Says that one that is in has been refused later; it is tried again all the same."""
        self._say_once(call, "%s", error)

    def failed(self, call: Call, error: BaseException, now: float) -> None:
        """Takes note that there was no answer: until the back-off is over nobody else is to ask there, either."""
        self._say_once(
            call, "no answer from the registry at %s: %s; trying again", without_secret(self.registries.url), error
        )
        self.put_off(call, now)

    def put_off(self, call: Call, now: float) -> None:
        """The same without a word."""
        for one in call.sessions:
            one.failed()
        self._put_off(call.sessions, now)
        retry_at = min((self._due[one] for one in call.sessions if one in self._due), default=now)
        concerned = set(call.sessions)
        for one, due in self._due.items():
            self._due[one] = retry_at if one in concerned else max(due, retry_at)

    def farewell(self, session: Session) -> Call:
        """What ends a registration that has left."""
        return Call(session.farewell(), (session,), session.timeout)

    def took_leave(self, call: Call, outcome: int | BaseException) -> None:
        """Says where a farewell, which was answered with a status or not at all, has not done it."""
        (session,) = call.sessions
        self._troubled.discard(session)
        if outcome not in _GONE and session.was_in:
            trouble = f"the registry answers {outcome}" if isinstance(outcome, int) else str(outcome)
            text = "could not deregister instance=%s: %s; its lease will end"
            logger.warning(text, session.instance_id, trouble)

    def is_in(self, session: Session) -> bool:
        """Whether the registry has confirmed it last time."""
        return session.phase is Phase.IN and session not in self._troubled

    def _say_once(self, call: Call, message: str, *args: object) -> None:
        """Warns when trouble begins, and keeps quiet until it is over."""
        is_known = self._troubled.issuperset(call.sessions)
        logger.log(logging.DEBUG if is_known else logging.WARNING, message, *args)
        self._troubled.update(call.sessions)

    def _shared_answered(self, sessions: Sequence[Session], status: int, answer: dict[str, Any]) -> bool:
        unknown, renewed = answer.get("unknown"), answer.get("renewed")
        if status != 200 or not isinstance(unknown, list) or not isinstance(renewed, int):
            for one in sessions:
                one.answered(status, b"")
            return False
        jitter = self._dice.uniform(*JITTER)
        gone = {name for name in unknown if isinstance(name, str)}
        for one in sessions:
            if one.instance_id in gone:
                one.forgotten()
            else:
                one.renewed(jitter)
        return True

    def _put_off(self, sessions: Sequence[Session], now: float) -> None:
        """Those who have left meanwhile stay away."""
        for one in sessions:
            if one in self._due:
                self._due[one] = now + one.wait

    @staticmethod
    def _is_in(session: Session) -> bool:
        session.settle()
        return session.phase is Phase.IN
