"""The client: registers a service, keeps it registered, takes it off again, and finds others.

In an asyncio program:

    from registryd.client import Discovery, registered

    async with registered("users", "http://10.0.0.5:8000"), Discovery("timelines") as timelines:
        timelines.pick().base_url

or `await register_service(...)` at the start and `await deregister_service()` at the end. In any other the same names
are in `registryd.client.blocking`, and a single call in `registryd.client.http`.

Nothing here imports the server, and what is not used is not loaded.
"""

from typing import TYPE_CHECKING, Any

from registryd.client.errors import (
    BadSetting,
    NoInstances,
    NotARegistry,
    Refused,
    RegistrationRefused,
    RegistrydError,
    RegistryUnreachable,
    TokenRefused,
)

if TYPE_CHECKING:
    from registryd.client.aio import (
        Discovery,
        Registration,
        deregister_service,
        lifespan,
        register_service,
        registered,
    )
    from registryd.client.choices import Instance

__all__ = [
    "BadSetting", "Discovery", "Instance", "NoInstances", "NotARegistry", "Refused", "Registration",
    "RegistrationRefused", "RegistryUnreachable", "RegistrydError", "TokenRefused", "deregister_service", "lifespan",
    "register_service", "registered",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What needs Tornado is loaded when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from registryd.client import aio, choices

    return getattr(choices if name == "Instance" else aio, name)
