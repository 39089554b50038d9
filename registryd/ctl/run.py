"""Programs that are kept registered: a command of ours, or one that someone else looks after (`register --keep`)."""

import argparse
import errno
import logging
import os
import queue
import resource
import signal
import sys
import threading
import time
from typing import NoReturn

from registryd.client.blocking import registered
from registryd.client.errors import BadSetting
from registryd.ctl.announcer import PROBE_PAUSE, Announcer, answers, endpoint_of
from registryd.ctl.commands import about
from registryd.ctl.output import Output
from registryd.ctl.statuses import Status
from registryd.ctl.supervisor import Action, Exit, Leave, Pass, Supervisor
from registryd.ctl.tables import printable
from registryd.ctl.wakings import Wakings

#: Signals that are passed on. (Those of job control are for us as well, and come from a terminal to both.)
PASSED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH,
)  # fmt: skip


class Plain(logging.Formatter):
    """A line on stderr like all others of ours."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return f"registryctl: {printable(record.getMessage())}"


class Stopped(BaseException):
    """We have been told to stop. Not an Exception, so that nothing takes it for trouble with the registry."""


def run(asked: argparse.Namespace, output: Output) -> int:
    """`registryctl run`: the exit status of the command, or minus the signal that has ended it. Raises BadSetting."""
    probe = asked.probe or endpoint_of(asked.url)
    if probe is None:
        raise BadSetting(f"cannot tell from {asked.url!r} where it accepts connections; say it with --probe HOST:PORT")
    _say_what_the_client_does()
    happened: queue.SimpleQueue[bool] = queue.SimpleQueue()
    with Wakings((*PASSED, signal.SIGCHLD)) as wakings:

        def when_left(was_listed: bool) -> None:
            happened.put(was_listed)
            wakings.wake()

        shares_terminal = _is_in_the_foreground()
        try:
            pid = start(asked.argv, shares_terminal=shares_terminal)
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            output.complain(f"cannot run {asked.argv[0]}: {error.strerror}")
            return Status.NOT_FOUND if is_missing else Status.NOT_STARTABLE
        announcer = Announcer(asked.service, asked.url, about(asked), probe, when_left)
        announcer.start()
        supervisor = Supervisor(asked.grace, shares_terminal=shares_terminal)
        while True:
            now = time.monotonic()
            actions = supervisor.due(now)
            for number in wakings.wait(0.0 if actions else supervisor.wait(now)):
                if number in PASSED:
                    actions += supervisor.signalled(signal.Signals(number), time.monotonic())
            while not happened.empty():
                actions += supervisor.left(time.monotonic(), was_listed=happened.get())
            status = reap(pid)
            if status is not None:
                actions += supervisor.ended(status, time.monotonic())
            for action in actions:
                if isinstance(action, Exit):
                    return action.status
                _do(action, pid, announcer, is_over=status is not None)


def _do(action: Action, pid: int, announcer: Announcer, *, is_over: bool) -> None:
    if isinstance(action, Leave):
        announcer.leave()
    elif isinstance(action, Pass) and not is_over:
        os.kill(pid, action.number)


def start(argv: list[str], *, shares_terminal: bool) -> int:
    """Starts a command, with all that we have been given open; gives back its process id. Raises OSError where that
    cannot be.

    In a terminal it is in our process group, so that it can read from it, and Ctrl-C and Ctrl-Z are for both. Else it
    has one of its own, so that whoever sends a signal to all of ours does not stop it before it is off the list."""
    if not argv[0]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    ignored_by_python = [signal.SIGPIPE, signal.SIGXFSZ]
    if shares_terminal:
        return os.posix_spawnp(argv[0], argv, os.environ, setsigdef=ignored_by_python)
    return os.posix_spawnp(argv[0], argv, os.environ, setsigdef=ignored_by_python, setpgroup=0)


def reap(pid: int) -> int | None:
    """Takes note of all processes that have ended, orphans too where we are the init of a container; gives back how the
    one has ended, if it has: its exit status, or minus a signal."""
    found = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if ended == 0:
            return found
        if ended == pid:
            found = os.waitstatus_to_exitcode(status)


def keep(asked: argparse.Namespace) -> int:
    """`registryctl register --keep`: until we are told to stop. Raises Refused, BadSetting."""
    _say_what_the_client_does()

    def stop(*_: object) -> None:
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        while asked.probe is not None and not answers(asked.probe):
            time.sleep(PROBE_PAUSE)
        with registered(asked.service, asked.url, **about(asked)):
            threading.Event().wait()
    except Stopped:
        pass
    return Status.DONE


def die_of(number: int) -> NoReturn:
    """Ends us by a signal, as the command was, so that whoever started us sees the same; an init of a container cannot
    die so, and ends as a shell would. No core is left: it would be of the wrong program."""
    sys.stdout.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _say_what_the_client_does() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Plain())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _is_in_the_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
