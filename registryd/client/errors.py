"""What a client may be told, by type, in the family of core.errors. Each text is one line that says what to do.

RegistrydError
├── RegistryUnreachable       no registry answers
│   └── NotARegistry          something answers that is none
├── Refused                   the registry has refused; carries `status`, `code` and, for bad input, `field`
│   ├── TokenRefused          it wants a token, or one that allows this
│   └── RegistrationRefused   it does not take a registration as it is
├── NoInstances               there is nobody to pick
└── BadSetting                an environment variable cannot be used
"""

from registryd.core.errors import RegistrydError

__all__ = [
    "BadSetting", "NoInstances", "NotARegistry", "Refused", "RegistrationRefused", "RegistrationTokenRefused",
    "RegistryUnreachable", "RegistrydError", "TokenRefused",
]  # fmt: skip


class RegistryUnreachable(RegistrydError):
    """No registry answers."""

    code = "registry_unreachable"


class NotARegistry(RegistryUnreachable):
    """Something answers that is no registry."""

    code = "not_a_registry"


class Refused(RegistrydError):
    """The registry has answered that it will not do it; `code` is its own."""

    def __init__(self, detail: str, status: int, code: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.field = field


class TokenRefused(Refused):
    """The registry wants a token, or does not know the one that it was shown (401), or that does not allow this
    (403)."""


class RegistrationRefused(Refused):
    """The registry does not take this registration as it is; trying again would not help."""

    def __init__(self, detail: str, status: int, code: str, field: str | None = None) -> None:
        super().__init__(f"the registry refuses this registration: {detail}", status, code, field)


class RegistrationTokenRefused(RegistrationRefused, TokenRefused):
    """The same, for want of a token that allows it."""


class NoInstances(RegistrydError):
    """There is nobody to pick."""

    code = "no_instances"


class BadSetting(RegistrydError):
    """An environment variable cannot be used."""

    code = "bad_setting"
