"""The shapes of what is answered: rendered from these, and described by them in /openapi.json."""

from msgspec import UNSET, Struct, UnsetType

from registryd.core.access import Right
from registryd.core.model import ChangeKind, OverrideStatus, Status
from registryd.core.services import ServiceCount


class OverrideShape(Struct):
    """What an operator has laid over an instance."""

    status: OverrideStatus
    reason: str
    since: str
    until: str | None


class InstanceShape(Struct):
    """An instance. `status` is the effective one; while there is an override, it is shown too; and `suspect` is there
    while it is listed although it is not heard any more."""

    instance_id: str
    service_name: str
    base_url: str
    registered_at: str
    last_heartbeat: str
    status: Status
    ttl: float
    metadata: dict[str, str]
    tags: tuple[str, ...]
    version: str
    zone: str
    weight: int
    generation: int
    override: OverrideShape | UnsetType = UNSET
    suspect: bool | UnsetType = UNSET


class WithdrawnShape(InstanceShape, kw_only=True):
    """An instance under an override, and the last time that any reader was given it."""

    last_handed_out_at: str | None


class RenewedShape(Struct):
    """The answer to a heartbeat."""

    instance_id: str
    service_name: str
    status: Status
    last_heartbeat: str
    ttl: float


class RenewedAllShape(Struct):
    """The answer to many heartbeats at once."""

    renewed: int
    unknown: list[str]


class LeaseShape(Struct):
    """When an instance was last heard, and for how long it is listed from now on unless it is heard again: at least so
    long, as the lease clock may stand still."""

    instance_id: str
    last_heartbeat: str
    ttl: float
    seconds_left: float


class LeasesLeftShape(Struct):
    """The leases that were asked for, as far as they are there."""

    leases: list[LeaseShape]
    count: int


class ServiceShape(Struct):
    """The instances of one service."""

    service_name: str
    instances: list[InstanceShape]
    count: int


class ServicesShape(Struct):
    """All services, by name."""

    services: dict[str, ServiceCount]
    count: int


class SnapshotShape(Struct):
    """The data of a `snapshot` event."""

    instances: list[InstanceShape]
    count: int


class StoreShape(Struct):
    """Where changes are kept, and how many instances were restored from there and have had no heartbeat since."""

    kind: str
    restored: int | UnsetType = UNSET


class LeasesShape(Struct):
    """What has happened to leases since the start."""

    renewed: int
    expired: int
    stalls: int
    stalled_seconds: float


class CallerShape(Struct):
    """Whoever asks: the name of his token (empty: none), his rights, and for which services."""

    name: str
    rights: list[Right]
    services: list[str]


class AccessShape(Struct):
    """How many tokens there are, how many requests were refused (without a known token, and for want of a right), and
    what whoever asks may do."""

    tokens: int
    unauthorized: int
    forbidden: int
    caller: CallerShape


class OverloadShape(Struct):
    """What was refused or cut off for being too much: connections for want of room, connections that had to go for
    another of their address, requests of an address that makes too many, clients who kept too many bytes waiting; and
    how many bytes wait for clients now."""

    connections_refused: int
    crowded_out: int
    requests_refused: int
    cut_off: int
    waiting_bytes: int


class SuspectedShape(Struct):
    """A service with suspects: of so many leases that are listed or have expired within a ttl (`of`), `silent` are not
    heard any more, where `needed` of them make suspects."""

    listed: int
    of: int
    silent: int
    suspect: int
    needed: int


class SuspectsShape(Struct):
    """The share that makes suspects, how many there are, and the services that have the most."""

    share: float
    instances: int
    services: dict[str, SuspectedShape]


class StatusShape(Struct, kw_only=True):
    """How the registry is; `reasons` are there when something needs a human."""

    status: str
    reasons: list[str] | UnsetType = UNSET
    version: str
    started_at: str
    uptime_seconds: float
    services: int
    instances: int
    watchers: int
    index: int
    heartbeat_timeout: float
    cleanup_interval: float
    store: StoreShape
    access: AccessShape | UnsetType = UNSET
    overload: OverloadShape | UnsetType = UNSET
    leases: LeasesShape
    suspects: SuspectsShape | UnsetType = UNSET


class EventShape(Struct):
    """Something that happened to an instance, and who asked for it."""

    at: str
    event: ChangeKind
    index: int
    why: str
    address: str
    user_agent: str
    token: str | UnsetType = UNSET


class StoryShape(Struct):
    """Whether an instance is handed out, why or why not, and the last that happened to it, the oldest first."""

    instance_id: str
    service_name: str
    handed_out: bool
    why: str
    status: Status | None
    override: OverrideShape | None
    last_handed_out_at: str | None
    events: list[EventShape]


class ExplanationShape(Struct):
    """The stories of an instance, or of every instance of a service; `why` where there is none."""

    subject: str
    instances: list[StoryShape]
    count: int
    why: str | UnsetType = UNSET


class ProblemShape(Struct, kw_only=True):
    """A refusal, RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    field: str | UnsetType = UNSET
