"""What is logged of changes, and of anything else that can come in masses: so many entries, and then a sum."""

import asyncio
import heapq
import logging
import time

from registryd.core.model import Change
from registryd.logs.entries import Entry, Output, Value, of_record

#: Entries of one kind within a second that are told one by one. It is for each kind, so that a mass of one does not
#: hide another; and all four kinds of changes together are less than journald takes (RateLimitBurst=, 10,000 in 30 s).
MOST_EACH = 75
#: Seconds after which what is beyond that is summed up.
SPAN = 1.0
#: Services that a sum names.
NAMED = 20


class Gate:
    """Lets so many entries of each kind through in a second, counts the others, and then writes a sum of those.

    A second begins with what comes first, and a timer ends it; where there is no event loop, everything goes through.
    From the thread of the event loop only, but for what happens before there is one."""

    def __init__(self, output: Output, most: int = MOST_EACH) -> None:
        self._output = output
        self._most = most
        self._left: dict[str, int] = {}
        #: How many of each kind were not let through, by service ("" where it is about none).
        self._more: dict[str, dict[str, int]] = {}
        self._levels: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._clock = time.monotonic
        self._began = 0.0

    def admits(self, level: int, event: str, service_name: str) -> bool:
        """Whether another entry of this kind is to be written. If not, it has been counted."""
        left = self._left.get(event, self._most)
        if left:
            self._left[event] = left - 1
            if self._timer is None:
                self._begin()
            return True
        more = self._more.get(event)
        if more is None:
            more = self._more[event] = {}
            self._levels[event] = level
        more[service_name] = more.get(service_name, 0) + 1
        return False

    def flush(self) -> None:
        """Ends the second: writes the sums, and begins anew."""
        seconds = 0.0
        if self._timer is not None:
            seconds = self._clock() - self._began
            self._timer.cancel()
            self._timer = None
        self._left.clear()
        more, self._more = self._more, {}
        for event, by_service in more.items():
            self._output.write(_sum(self._levels[event], event, by_service, max(seconds, 0.1)))

    def _begin(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._left.clear()
            return
        self._clock = loop.time
        self._began = loop.time()
        self._timer = loop.call_later(SPAN, self.flush)


def _sum(level: int, event: str, by_service: dict[str, int], seconds: float) -> Entry:
    count = sum(by_service.values())
    by_service.pop("", None)
    services = len(by_service)
    # Those that are the most concerned first; of those that are equally, by name.
    named = heapq.nsmallest(NAMED, by_service.items(), key=lambda item: (-item[1], item[0]))
    message = f"{event} count={count} more in {seconds:.1f} s"
    if named:
        message += f" services={services} " + " ".join(f"{name}={n}" for name, n in named)
    if services > len(named):
        message += f" and {services - len(named)} others"
    fields: dict[str, Value] = {"count": count}
    if named:
        fields |= {"services": services, "service": [name for name, _ in named]}
    return Entry(level, time.time(), message, event, fields)


class LogHandler(logging.Handler):
    """Passes the records of Python's logging on."""

    def __init__(self, output: Output, gate: Gate) -> None:
        super().__init__()
        self._output = output
        self._gate = gate

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record, or has it counted."""
        entry = of_record(record)
        if not entry.event or self._gate.admits(entry.level, entry.event, str(entry.fields.get("service", ""))):
            self._output.write(entry)

    def flush(self) -> None:
        """Writes what there is."""
        self._output.flush()


class ChangeLog:
    """Tells of an instance that appears, goes or is overridden, and why. There may be tens of thousands in a second, so
    no record is made of each, and what the gate does not let through costs a count.

    What an instance reports of itself comes with heartbeats, perhaps with each: that is for those who look for it."""

    def __init__(self, output: Output, gate: Gate, level: str) -> None:
        self._output = output
        self._gate = gate
        self.set_level(level)

    @property
    def lost(self) -> int:
        """How many entries of the whole log could not be written."""
        return self._output.lost

    def set_level(self, level: str) -> None:
        """Has the whole log written from this level on."""
        least = logging.getLevelName(level.upper())
        self._tells = least <= logging.INFO
        self._tells_reports = least <= logging.DEBUG
        logging.getLogger().setLevel(least)
        # A reader who sends nonsense gets an answer; our log need not keep it, unless someone is looking for it.
        logging.getLogger("tornado.general").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)

    def note(self, change: Change) -> None:
        """Tells of a change."""
        if change.is_report:
            if self._tells_reports:
                self._output.write(_entry(logging.DEBUG, change))
        elif self._tells and self._gate.admits(logging.INFO, change.kind, change.instance.service_name):
            self._output.write(_entry(logging.INFO, change))

    def flush(self) -> None:
        """Sums up what has been counted so far, and writes what there is."""
        self._gate.flush()
        self._output.flush()

    def close(self) -> None:
        """The same at the end of the process, which may take a moment."""
        self._gate.flush()
        self._output.close()


def _entry(level: int, change: Change) -> Entry:
    instance = change.instance
    message = (
        f"{change.kind} service={instance.service_name} instance={instance.instance_id} url={instance.base_url} "
        f"generation={instance.generation} index={change.index} reason={change.reason!r}"
    )
    fields: dict[str, Value] = {
        "service": instance.service_name,
        "instance": instance.instance_id,
        "url": instance.base_url,
        "generation": instance.generation,
        "index": change.index,
        "reason": change.reason,
        "peer": change.origin.address,
    }
    return Entry(level, time.time(), message, change.kind, fields)
