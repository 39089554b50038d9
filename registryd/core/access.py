"""Who may do what: the rights of whoever asks, and the one place that decides on them.

A right is held for services, by the patterns of their names. What someone may not even read, he is not told of: to him
an instance of such a service is one that is not registered.
"""

import re
from collections.abc import Collection, Iterable
from typing import Literal, Protocol, get_args

from registryd.core.errors import Forbidden, HiddenInstance, RegistrydError, Unauthorized

Right = Literal["read", "register", "operate", "admin"]

RIGHTS: tuple[Right, ...] = get_args(Right)


#: Each right by those of which any one brings it.
_GIVEN_BY: dict[Right, frozenset[Right]] = {
    "read": frozenset({"read", "operate", "admin"}),
    "register": frozenset({"register", "admin"}),
    "operate": frozenset({"operate", "admin"}),
    "admin": frozenset({"admin"}),
}


class Owned(Protocol):
    """An instance, as far as rights go."""

    @property
    def instance_id(self) -> str: ...
    @property
    def service_name(self) -> str: ...
    @property
    def owner(self) -> str: ...


class Caller:
    """Someone who asks, by a name that is also that of what he owns; nameless, where he has shown no token."""

    def __init__(self, name: str, allow: Collection[Right], services: Collection[str]) -> None:
        self.name = name
        #: The rights that he has: whoever operates must read, and `admin` is all of them.
        self.rights = frozenset(right for right in RIGHTS if not _GIVEN_BY[right].isdisjoint(allow))
        #: The patterns of the names of the services that they are for.
        self.services = tuple(services)
        self._is_his = _pattern(services).fullmatch
        #: Whether his rights are for whatever service there will ever be.
        self.is_for_all = "*" in services

    def may(self, right: Right, service_name: str) -> bool:
        """Whether he has a right for a service."""
        return right in self.rights and (self.is_for_all or self._is_his(service_name) is not None)

    def must(self, right: Right, service_name: str) -> None:
        """Raises Forbidden where he has not, or Unauthorized where he has shown no token, as all below."""
        if not self.may(right, service_name):
            raise self._refusal(right, f"service {service_name!r}")

    def must_for_all(self, right: Right) -> None:
        """For what is about all services at once. Raises Forbidden."""
        if right not in self.rights or not self.is_for_all:
            raise self._refusal(right, "all services")

    def must_have(self, *rights: Right) -> None:
        """One of these rights, for whichever service. Raises Forbidden, which names the first."""
        if self.rights.isdisjoint(rights):
            raise self._refusal(rights[0], "any service")

    def may_see(self, instance: Owned) -> bool:
        """Whether he may read of an instance: of his own in any case."""
        return self.may("read", instance.service_name) or self.owns(instance)

    def must_see(self, instance: Owned) -> None:
        """Raises UnknownInstance, as for one that is not there."""
        if not self.may_see(instance):
            raise HiddenInstance(instance.instance_id)

    def may_change(self, instance: Owned) -> bool:
        """Its owner may, and whoever operates the service."""
        return self.owns(instance) or self.may("operate", instance.service_name)

    def must_change(self, instance: Owned) -> None:
        """Raises Forbidden, or UnknownInstance where he may not know that it is there."""
        if not self.may_change(instance):
            self.must_see(instance)
            raise self._refusal("operate", f"service {instance.service_name!r}")

    def must_operate(self, instance: Owned) -> None:
        """Raises Forbidden, or UnknownInstance where he may not know that it is there."""
        if not self.may("operate", instance.service_name):
            self.must_see(instance)
            raise self._refusal("operate", f"service {instance.service_name!r}")

    def must_register(self, service_name: str, former: Owned | None) -> None:
        """Under a new id, or that of an instance that is there, or is remembered as gone. Raises Forbidden."""
        self.must("register", service_name)
        if former is not None and former.service_name and not self.may_change(former):
            raise self._refusal("operate", "what is registered under this instance_id")

    def owns(self, instance: Owned) -> bool:
        """Whether it is his. What was registered without a token belongs to all who may register that service."""
        return instance.owner in ("", self.name) and self.may("register", instance.service_name)

    def _refusal(self, right: Right, of_what: str) -> RegistrydError:
        """A better token may help whoever has shown one; who has shown none is to show one."""
        if self.name:
            return Forbidden(self.name, right, of_what)
        return Unauthorized(
            f"the right `{right}` for {of_what} needs a token: send it as Authorization: Bearer TOKEN", is_bad=False
        )


def _pattern(services: Iterable[str]) -> re.Pattern[str]:
    """Names as in a shell: * is any characters, ? any one."""
    parts = (re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in services)
    return re.compile("|".join(parts) or r"(?!)")


#: Who asks where there is no access control.
EVERYONE = Caller("", RIGHTS, ("*",))
