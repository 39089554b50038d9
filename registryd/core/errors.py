"""What can go wrong, by type. No type here names an HTTP status: each face maps types to its own answers.

RegistrydError
├── InvalidInput        what was sent breaks a rule; carries `field`
├── Unauthorized        who asks has shown no token, or one that is not known
├── Forbidden           who asks has not the right to do that
├── UnknownInstance     no such instance is registered, or its lease has ended
│   └── HiddenInstance  who asks may not know that it is
├── StaleGeneration     the instance has been taken over by a newer registration
├── LimitReached        one more would be over a limit of this registry
├── StoreUnavailable    the change cannot be kept, so nothing has changed
└── Recovering          what was registered before the restart is lost, and may be coming back
"""

__all__ = [
    "ECHO", "Forbidden", "HiddenInstance", "InvalidInput", "LimitReached", "Recovering", "RegistrydError",
    "StaleGeneration", "StoreUnavailable", "Unauthorized", "UnknownInstance",
]  # fmt: skip


#: How much of what was sent a refusal repeats.
ECHO = 64


class RegistrydError(Exception):
    """Base of all; `code` is the stable token that programs match on, the text is a sentence for people."""

    code = "error"


class InvalidInput(RegistrydError, ValueError):
    """What was sent breaks a rule. A ValueError too, so that msgspec passes it on from `__post_init__`."""

    code = "invalid_field"

    def __init__(self, field: str, detail: str, code: str = "invalid_field") -> None:
        super().__init__(detail)
        self.field = field
        self.code = code


class Unauthorized(RegistrydError):
    """Who asks has shown no token, or one that is not known."""

    code = "unauthorized"

    def __init__(self, detail: str, *, is_bad: bool) -> None:
        super().__init__(detail)
        #: Whether a token was shown.
        self.is_bad = is_bad


class Forbidden(RegistrydError):
    """Who asks has not the right to do that."""

    code = "forbidden"

    def __init__(self, name: str, right: str, of_what: str) -> None:
        super().__init__(f"token {name!r} has not the right `{right}` for {of_what}; use a token that has")


class UnknownInstance(RegistrydError):
    """No such instance is registered, or its lease has ended."""

    code = "unknown_instance"

    def __init__(self, instance_id: str) -> None:
        shown = instance_id[:ECHO]
        super().__init__(f"no instance {shown!r} is registered, or its lease has ended; register it again")


class HiddenInstance(UnknownInstance):
    """Who asks may not know that it is there: to him it is one that is not."""


class StaleGeneration(RegistrydError):
    """The instance has been taken over by another registration under the same id."""

    code = "stale_generation"

    def __init__(self, instance_id: str, asked: int, current: int) -> None:
        super().__init__(
            f"instance {instance_id!r} is at generation {current}, not {asked}: "
            "another registration has taken this id over; stop using it or register under a new one"
        )


class LimitReached(RegistrydError):
    """One more would be over a limit of this registry."""

    code = "limit_reached"


class StoreUnavailable(RegistrydError):
    """What is to change cannot be kept, so nothing has changed."""

    code = "store_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "the registry cannot write to its disk right now, so nothing has changed; try again later (reads and "
            "heartbeats go on; the registry's log says what is wrong)"
        )


class Recovering(RegistrydError):
    """What was registered before the restart is lost, and the services may not have registered again yet."""

    code = "recovering"

    def __init__(self) -> None:
        super().__init__(
            "the registry has lost its state and waits for the services to register again; keep what you know, and ask "
            "again later"
        )
