"""The nouns: an instance as it was registered, the commands that ask for a change, and the changes that follow.

All of them are values: nothing here changes after it is made.
"""

import functools
import ipaddress
import re
from typing import Literal, NamedTuple, get_args

from msgspec import Struct

from registryd.core.access import EVERYONE, Caller
from registryd.core.errors import InvalidInput

#: What an instance says about itself; what an operator lays over it; and what a reader sees.
ReportedStatus = Literal["up", "starting", "down"]
OverrideStatus = Literal["draining", "maintenance"]
Status = Literal["up", "starting", "down", "draining", "maintenance"]
STATUSES: tuple[Status, ...] = get_args(Status)
ChangeKind = Literal["registered", "updated", "deregistered", "expired"]


#: Characters of a URL that nobody counts; bytes of a place in a dictionary, and of a string beside its characters.
_USUAL_URL, _PLACE, _STRING = 256, 50, 50


class Instance(Struct, frozen=True, gc=False, kw_only=True):
    """One running copy of a service, as it was registered. A change of any field makes a new Instance.

    `gc=False`: these hold no reference cycles, and at a million of them the collector's visits would be felt.
    """

    instance_id: str
    service_name: str
    base_url: str
    #: Wall clock, whole seconds since 1970, for people only: leases know nothing of it.
    registered_at: int
    #: What the instance says about itself.
    status: ReportedStatus
    #: Length of its lease in seconds: without a heartbeat for that long it is gone.
    ttl: float
    metadata: dict[str, str]
    tags: tuple[str, ...]
    version: str
    zone: str
    weight: int
    #: 1 for the first registration under an id, one more for each that takes it over.
    generation: int
    #: The name of the token that registered it; empty where there was no access control.
    owner: str = ""


def bulk(instance: Instance) -> int:
    """Bytes of memory that an instance takes beyond the few hundred that every one does: of its metadata, its tags and
    a long URL."""
    size = len(instance.base_url) - _USUAL_URL if len(instance.base_url) > _USUAL_URL else 0
    if instance.metadata or instance.tags:
        size += sum(_size(key) + _size(value) + _PLACE for key, value in instance.metadata.items())
        size += sum(map(_size, instance.tags))
    return size


def _size(text: str) -> int:
    # Its own __sizeof__ grows when someone asks for it in UTF-8, which is then kept.
    return _STRING + (len(text) if text.isascii() else 8 * len(text))


class Override(Struct, frozen=True, gc=False):
    """What an operator lays over the status that an instance reports. It wins, and outlives the registration."""

    status: OverrideStatus
    reason: str
    #: Wall clock, whole seconds since 1970.
    since: int
    #: Its end: wall clock for people, and the moment itself on the lease clock. None: when it is taken off.
    until: int | None = None
    ends_at: float | None = None


class Suspicion(Struct, frozen=True, gc=False):
    """Why an instance that is not heard any more is listed for one more ttl: so many leases of its service have gone
    silent at about the same time that it may be us who cannot be reached."""

    silent: int
    #: Of so many leases: those that are there, and those that have expired within their last ttl.
    of: int
    #: The share of them that was enough.
    share: float
    #: Its end: wall clock, whole seconds since 1970, for people.
    until: int


class Origin(NamedTuple):
    """Who asks for a change: for the history, and for what he may do."""

    address: str = ""
    user_agent: str = ""
    caller: Caller = EVERYONE


NOBODY = Origin()


class Register(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks for an instance to be listed. None means "not given"."""

    service_name: str
    base_url: str
    instance_id: str | None = None
    ttl: float | None = None
    status: ReportedStatus | None = None
    metadata: dict[str, str] | None = None
    tags: tuple[str, ...] | None = None
    version: str | None = None
    zone: str | None = None
    weight: int | None = None

    def __post_init__(self) -> None:
        parse_base_url(self.base_url)


class Report(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an instance says anew about itself along with a heartbeat. None means "as it was"."""

    status: ReportedStatus | None = None
    weight: int | None = None
    metadata: dict[str, str] | None = None

    def is_empty(self) -> bool:
        """Whether it reports nothing: a mere heartbeat."""
        return self.status is None and self.weight is None and self.metadata is None


class Update(Struct, frozen=True):
    """Asks for a report to be laid over a registered instance."""

    instance_id: str
    report: Report
    generation: int | None = None


class Deregister(Struct, frozen=True):
    """Asks for an instance to be taken off the list."""

    instance_id: str
    generation: int | None = None


class SetOverride(Struct, frozen=True):
    """Asks for an override to be laid over an instance, in place of one that is there; `seconds` is its length."""

    instance_id: str
    status: OverrideStatus
    reason: str = ""
    seconds: float | None = None


class Resume(Struct, frozen=True):
    """Asks for the override of an instance to be taken off."""

    instance_id: str


Command = Register | Update | Deregister | SetOverride | Resume


class Change(Struct, frozen=True, gc=False, kw_only=True):
    """Something that a reader can see has changed.

    `instance` is the instance as it is afterwards; when `kind` is `deregistered` or `expired`, as it was.
    """

    kind: ChangeKind
    instance: Instance
    #: Wall clock, whole seconds since 1970.
    last_heartbeat: int
    #: Why, for people: ends up in the log.
    reason: str
    #: When it was decided: wall clock, whole seconds since 1970.
    at: int
    override: Override | None = None
    origin: Origin = NOBODY
    #: Whether an instance has told this about itself along with a heartbeat.
    is_report: bool = False
    #: Why it is suspect afterwards (or was), if it is.
    suspicion: Suspicion | None = None
    #: Whether no store keeps it: its suspicion alone has changed, of which nothing outlives this life of the registry;
    #: or its override has ended while something else about it is being written, which would be undone.
    is_passing: bool = False
    #: 0 until the store has handed out a number.
    index: int = 0

    @property
    def status(self) -> Status:
        """The effective status afterwards (or as it was)."""
        return effective_status(self.instance, self.override)


class Kept(Struct, frozen=True, gc=False):
    """An instance as a store keeps it, for the next life of the registry. Heartbeats since are not in it."""

    instance: Instance
    #: Wall clock, whole seconds since 1970.
    last_heartbeat: int
    override: Override | None = None


class KeptGone(Struct, frozen=True, gc=False):
    """What a store keeps of an instance that is gone."""

    instance_id: str
    #: When it went: wall clock, whole seconds since 1970.
    at: int
    generation: int
    override: Override | None = None
    service_name: str = ""
    owner: str = ""


def effective_status(instance: Instance, override: Override | None) -> Status:
    """What a reader sees: the override wins."""
    return instance.status if override is None else override.status


class Endpoint(NamedTuple):
    """A base_url taken apart. `host` is without brackets; `port` is None where the URL names none."""

    scheme: str
    host: str
    port: int | None
    path: str


# RFC 3986 section 3, narrowed to what an address of a service can need: there is an authority and no fragment.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:\[(?P<ipv6>[^\[\]/?]*)\]|(?P<name>[^\[\]:/?]*))"
    r"(?::(?P<port>[^/?]*))?"
    r"(?P<path>[/?].*)?"
)
# White space, control characters, and those that turn or hide text: a URL is read by people, too.
_UNSAFE = r"\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
#: All of that in one regular expression, for descriptions; it takes any text for an IPv6 address that looks like one.
BASE_URL = (
    r"^[A-Za-z][A-Za-z0-9+.-]*://"
    rf"(\[[0-9A-Fa-f:.]+\]|[^{_UNSAFE}\\\[\]:/?#@]+)"
    r"(:(|[0-5]?[0-9]{1,4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
    rf"([/?][^{_UNSAFE}\\#]*)?$"
)
_BLANK_OR_CONTROL = re.compile(f"[{_UNSAFE}]")


@functools.lru_cache(maxsize=1024)  # one registration asks more than once, and the next one from there soon
def parse_base_url(url: str) -> Endpoint:
    """Takes a base_url apart, and by that checks it: absolute, any scheme, with a host and nothing unsafe.

    Raises InvalidInput that says what is wrong with it.
    """

    def wrong(what: str) -> InvalidInput:
        return InvalidInput("base_url", f"base_url {what}; send one like http://10.0.0.5:8000")

    if _BLANK_OR_CONTROL.search(url):
        raise wrong("has white space or a control character in it")
    if "\\" in url:
        raise wrong("has a backslash in it")
    if "#" in url:
        raise wrong("has a fragment (#)")
    scheme, separator, rest = url.partition("://")
    if not separator or not scheme:
        raise wrong("has no scheme")
    if "@" in re.split(r"[/?]", rest, maxsplit=1)[0]:
        raise wrong("has user info (something before an @), which every reader of the registry would see")
    match = _URL.fullmatch(url)
    if match is None:
        raise wrong("is not an absolute URL")
    host = match["name"]
    if match["ipv6"] is not None:
        try:
            host = str(ipaddress.IPv6Address(match["ipv6"]))
        except ValueError:
            raise wrong("has something other than an IPv6 address in brackets") from None
    if not host:
        raise wrong("has no host")
    port = match["port"] or None
    if port is not None and not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise wrong("has a port that is not a number from 0 to 65535")
    return Endpoint(match["scheme"].lower(), host, None if port is None else int(port), match["path"] or "")
