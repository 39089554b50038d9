"""How a command ends: the exit statuses, declared once for the code, --help, the man page and the README."""

from enum import IntEnum


class Status(IntEnum):
    """An exit status of registryctl. A command under `run` has its own."""

    DONE = 0
    NO = 1
    MISUSED = 2
    NO_REGISTRY = 3
    REFUSED = 4
    NOT_STARTABLE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    NOBODY_READS = 141


#: What each means.
MEANINGS = {
    Status.DONE: "done; it is so",
    Status.NO: (
        "it is not so: nobody fits, nothing is known under that name, the time is up, the registry is degraded; "
        "or what there is to say cannot be written"
    ),
    Status.MISUSED: "wrong usage, a setting that cannot be used, or a value that the registry does not take",
    Status.NO_REGISTRY: "no registry answers, or what answers is none, or it cannot do it now",
    Status.REFUSED: "the registry wants a token, or one that allows this",
    Status.NOT_STARTABLE: "run: the command is there and cannot be started",
    Status.NOT_FOUND: "run: there is no such command",
    Status.INTERRUPTED: "interrupted (Ctrl-C)",
    Status.NOBODY_READS: "whoever was reading its output has gone",
}
#: What `run` adds to these.
OF_A_COMMAND = "run: as the command ended; by signal N: of the same signal, which a shell shows as 128+N"


def rows() -> list[tuple[str, str]]:
    """All of it, as it is shown."""
    return [*((str(int(status)), meaning) for status, meaning in MEANINGS.items()), ("any", OF_A_COMMAND)]
