"""The instances by service: `{service_name: {instance_id: lease}}`, and how many of each are up."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from registryd.core.leases import Lease, Listing
from registryd.core.model import STATUSES, Status
from registryd.core.suspects import Silence


class Service(Listing, gc=False, eq=False, kw_only=True):
    """One service and its instances, in order of registration. It has at least one: a service without is gone."""

    name: str
    leases: dict[str, Lease]
    #: How many of them are up.
    up: int = 0
    #: How many of them are suspects.
    suspects: int = 0
    #: What is known of their silence; only where there may be suspects.
    silence: Silence | None = None

    def living(self, now: float, has_ended: Callable[[Lease, float], bool]) -> "Service | None":
        """The same without the leases that have ended by now: itself, where there is none; None, where none is left.
        It is asked `has_ended` only of those whose `expires_at` has come."""
        leases = {
            instance_id: lease
            for instance_id, lease in self.leases.items()
            if lease.expires_at > now or not has_ended(lease, now)
        }
        if len(leases) == len(self.leases):
            return self
        up = sum(lease.status == "up" for lease in leases.values())
        return Service(name=self.name, leases=leases, up=up) if leases else None


class ServiceCount(Struct, frozen=True):
    """How many instances a service has, and how many of them are up."""

    count: int
    up: int


class Services:
    """All services by name. Whoever is listed here has a lease, and the other way round: State sees to that."""

    def __init__(self) -> None:
        self._by_name: dict[str, Service] = {}
        #: How many instances of all services have each status.
        self.statuses: dict[Status, int] = dict.fromkeys(STATUSES, 0)

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Service]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Service | None:
        """The service of this name, or None."""
        return self._by_name.get(name)

    def counts(self, ended: Iterable[Lease] = ()) -> dict[str, ServiceCount]:
        """Every service with its numbers, by name, as if these leases were not there any more."""
        gone: dict[str, int] = {}
        gone_up: dict[str, int] = {}
        for lease in ended:
            name = lease.instance.service_name
            gone[name] = gone.get(name, 0) + 1
            gone_up[name] = gone_up.get(name, 0) + (lease.status == "up")
        return {
            name: ServiceCount(len(service.leases) - gone.get(name, 0), service.up - gone_up.get(name, 0))
            for name, service in sorted(self._by_name.items())
            if len(service.leases) > gone.get(name, 0)
        }

    def open(self, name: str) -> Service:
        """The service of this name, a new one where there is none: something must be listed in it at once."""
        service = self._by_name.get(name)
        if service is None:
            service = self._by_name[name] = Service(name=name, leases={})
        return service

    def list(self, lease: Lease, status: Status) -> None:
        """Lists a lease with its status, in place of one under the same id."""
        service = self._by_name[lease.instance.service_name]
        old = service.leases.get(lease.instance.instance_id)
        if old is not None:
            service.up -= old.status == "up"
            self.statuses[old.status] -= 1
            service.suspects -= old.suspicion is not None
        service.leases[lease.instance.instance_id] = lease
        self._set(service, lease, status)

    def set_status(self, lease: Lease, status: Status) -> None:
        """Gives a listed lease another status (or the same), after anything about it has changed."""
        service = self._by_name[lease.instance.service_name]
        lease.given_at = lease.handed_out_at  # while the list still counts for it
        service.up -= lease.status == "up"
        self.statuses[lease.status] -= 1
        self._set(service, lease, status)

    def unlist(self, lease: Lease) -> None:
        """Takes a lease off its list, and the service away with the last."""
        service = self._by_name[lease.instance.service_name]
        del service.leases[lease.instance.instance_id]
        service.up -= lease.status == "up"
        self.statuses[lease.status] -= 1
        service.suspects -= lease.suspicion is not None
        service.rendered = None
        if not service.leases:
            del self._by_name[service.name]

    def _set(self, service: Service, lease: Lease, status: Status) -> None:
        lease.status = status
        lease.unseen_listings = service.listings
        lease.touch()
        service.up += status == "up"
        self.statuses[status] += 1

    def check(self) -> None:
        """Raises AssertionError unless all that is said above holds."""
        counted = Counter(lease.status for service in self for lease in service.leases.values())
        assert self.statuses == {status: counted[status] for status in STATUSES}, "every status is counted"
        for name, service in self._by_name.items():
            assert service.name == name
            assert service.leases, "a service without instances is gone"
            assert service.up == sum(lease.status == "up" for lease in service.leases.values()), "up is counted"
            suspects = sum(lease.suspicion is not None for lease in service.leases.values())
            assert service.suspects == suspects, "suspects are counted"
            for instance_id, lease in service.leases.items():
                assert lease.instance.instance_id == instance_id, "listed under its id"
                assert lease.instance.service_name == name, "listed under its service"
                assert lease.listing is service, "a lease knows its list"
