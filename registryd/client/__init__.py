"""The client: registers a service, keeps it registered, and takes it off again. Works in any asyncio program.

    from registryd.client import deregister_service, register_service

    await register_service("users", "http://10.0.0.5:8000")   # when it can be reached
    ...
    await deregister_service()                                 # before it stops

Nothing here imports the server.
"""

from registryd.client.aio import Registration, deregister_service, register_service
from registryd.client.errors import RegistrationRefused

__all__ = ["Registration", "RegistrationRefused", "deregister_service", "register_service"]
