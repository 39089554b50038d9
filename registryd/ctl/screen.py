"""The terminal of `registryctl top`: draws what there is to see, and reads keys, until q."""

import argparse
import os
import queue
import re
import select
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from typing import Self

from registryd.client.errors import BadSetting, RegistrydError
from registryd.client.events import Event
from registryd.client.http import Client
from registryd.client.registries import without_secret
from registryd.ctl.output import Output
from registryd.ctl.statuses import Status
from registryd.ctl.top import Top
from registryd.ctl.wakings import Wakings
from registryd.ctl.watching import Watch

#: Seconds between two drawings, however much happens.
FRAME = 0.1
#: Another screen than that with the history, without a cursor and without wrapping; and back (xterm, ctlseqs).
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
KEYS = {
    b"j": "down", b"k": "up", b"\x1b[B": "down", b"\x1b[A": "up", b"\x1bOB": "down", b"\x1bOA": "up",
    b"\x1b[6~": "page down", b"\x1b[5~": "page up", b" ": "page down",
}  # fmt: skip
#: One key: an escape sequence (ECMA-48, section 5.4), or a byte.
KEY = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)|.", re.DOTALL)
QUIT = {b"q", b"Q", b"\x04"}


def top(client: Client, asked: argparse.Namespace, output: Output) -> int:
    """`registryctl top`. Raises BadSetting where there is no terminal, and what watching raises at first."""
    if not (output.is_terminal and sys.stdin.isatty()):
        raise BadSetting("top needs a terminal; for programs there are registryctl services --json and watch --json")
    view = Top(without_secret(client.registries.url))
    with Wakings((signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)) as wakings:
        watcher = Watcher(client, asked.names, view, wakings)
        watcher.start()
        with Screen(output) as screen:
            is_due = False
            drawn_at = -FRAME
            while True:
                wait = max(0.0, drawn_at + FRAME - time.monotonic()) if is_due else None
                ready = select.select([wakings, sys.stdin], [], [], wait)[0]
                came = set(wakings.wait(0.0))
                if {signal.SIGTERM, signal.SIGHUP} & came:
                    return Status.DONE
                if signal.SIGTSTP in came:
                    screen.stop()
                if sys.stdin in ready:
                    keys = KEY.findall(os.read(sys.stdin.fileno(), 1024))
                    if not keys or not QUIT.isdisjoint(keys):
                        return Status.DONE
                    for key in keys:
                        view.press(KEYS.get(key, ""))
                watcher.take()
                is_due = True
                if time.monotonic() - drawn_at >= FRAME:
                    _draw(view, output)
                    drawn_at, is_due = time.monotonic(), False


class Watcher:
    """Watches, in a thread of its own."""

    def __init__(self, client: Client, names: list[str], view: Top, wakings: Wakings) -> None:
        self._client = client
        self._view = view
        self._wakings = wakings
        self._watch = Watch(client, names, self._lost, self._found)
        self._happened: queue.SimpleQueue[tuple[Event, str] | str | bool | RegistrydError] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._follow, name="registryctl watcher", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def take(self) -> None:
        """Takes what has happened into the view. Raises what has ended the watch."""
        while not self._happened.empty():
            thing = self._happened.get()
            if isinstance(thing, RegistrydError):
                raise thing
            if isinstance(thing, str):
                self._view.lost(thing)
            elif isinstance(thing, bool):
                self._view.found(without_secret(self._client.registries.url))
            else:
                self._view.take(*thing)

    def _follow(self) -> None:
        try:
            for event in self._watch.events():
                self._tell((event, time.strftime("%H:%M:%S")))
        except RegistrydError as error:
            self._tell(error)

    def _lost(self, why: str) -> None:
        self._tell(why)

    def _found(self, is_whole: bool) -> None:
        self._tell(is_whole)

    def _tell(self, thing: tuple[Event, str] | str | bool | RegistrydError) -> None:
        self._happened.put(thing)
        self._wakings.wake()


class Screen:
    """The terminal as we need it, and as it was again, whatever happens."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._before = termios.tcgetattr(sys.stdin)

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def enter(self) -> None:
        """Takes it."""
        tty.setcbreak(sys.stdin)
        self._output.write(ENTER)

    def leave(self) -> None:
        """Gives it back."""
        self._output.write(LEAVE)
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def stop(self) -> None:
        """Ctrl-Z: until the shell has us go on."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()


def _draw(view: Top, output: Output) -> None:
    size = shutil.get_terminal_size()
    lines = view.lines(size.columns, size.lines, has_colours=output.has_colours)
    output.write(HOME + "\r\n".join(line + CLEAR_LINE for line in lines) + CLEAR_REST)
