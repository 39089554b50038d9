"""The command line: reads the settings, sets up the log, runs the server, and turns what went wrong into one line."""

import asyncio
import contextlib
import faulthandler
import functools
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from registryd import control, logs
from registryd.auth import BadAuthFile, new_token
from registryd.config import BadSetting, Config, asked_for_token, asked_to_reload, load
from registryd.listeners import AddressUnavailable, CannotListen
from registryd.server import NotInstalled, Server, choose_http, loop_factory
from registryd.store.file import CannotUseState, Damaged, StateUnavailable, opened
from registryd.tls import CannotUseTls


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon until it is stopped. 0: stopped in order; 1: something was cut off; 2: could not start; 3: nor
    can it now, as its address or its disk is not to be had, but perhaps later.
    Or has a running one reload. 0: all settings are in force; 1: they are not. Or makes a token."""
    if sys.stderr is None:  # closed by whoever started us, who does not want to hear anything
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of our life
    faulthandler.enable(sys.stderr)  # what aborts us, the watchdog above all, leaves in the log where we were
    asked = sys.argv[1:] if argv is None else argv
    load_again = functools.partial(load, asked, os.environ)
    try:
        if asked[:1] == ["token"]:
            return _make_token(asked[1:])
        pid = asked_to_reload(asked)
        if pid is not None:
            return _reload(pid)
        config = load_again()
    except (BadSetting, BadAuthFile) as error:
        return _cannot_start(str(error))
    change_log = logs.set_up(config.log_level, config.log_format, os.environ, sys.stderr)
    try:
        if config.check_state:
            return _check_state(config.state_dir)
        http = choose_http(config.http)
        with asyncio.Runner(loop_factory=loop_factory(http)) as runner:
            return runner.run(_serve(config, http, change_log, load_again))
    except (AddressUnavailable, StateUnavailable) as error:
        return _cannot_start(str(error), config.log_format, status=3)
    except (BadAuthFile, CannotListen, CannotUseState, CannotUseTls, NotInstalled) as error:
        return _cannot_start(str(error), config.log_format)
    finally:
        change_log.close()


async def _serve(config: Config, http: str, change_log: logs.ChangeLog, load_again: Callable[[], Config]) -> int:
    return await Server(config, os.environ, http, change_log, load_again).run()


def _reload(pid: int) -> int:
    outcome = control.ask(pid)
    for line in outcome.lines:
        print(line if outcome.is_good else f"registryd: {line}", file=sys.stdout if outcome.is_good else sys.stderr)
    return 0 if outcome.is_good else 1


def _make_token(argv: Sequence[str]) -> int:
    """`registryd token new`: prints a new token, alone, and adds its hash to the auth file. Raises BadSetting,
    BadAuthFile."""
    asked = asked_for_token(argv)
    token = new_token(asked.auth_file, asked.name, asked.allow, asked.services)
    try:
        print(token, flush=True)
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # or what is left in its buffer would be tried again at our end
        return _cannot_start(
            f"cannot print the new token: {error.strerror}; nobody knows it, so remove [tokens.{asked.name}] from "
            f"{asked.auth_file} and make another",
            status=1,
        )
    return 0


def _check_state(state_dir: str) -> int:
    """Tells what is in the state directory. 0: all is well; 1: it is damaged. Raises CannotUseState."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever reads us may stop, like any reader of a list (head)
    if not state_dir:
        raise CannotUseState("there is no state directory to check; set --state-dir")
    try:
        with opened(Path(state_dir)) as file:
            contents = file.load()
    except Damaged as damage:
        print(f"damaged: {damage}; at the next start the file is set aside, and the registry begins anew")
        return 1
    services = Counter(kept.instance.service_name for kept in contents.instances)
    print(f"{file.path}: whole, {file.path.stat().st_size} bytes")
    print(f"{len(contents.instances)} instances of {len(services)} services, {len(contents.gone)} remembered as gone")
    for name, count in sorted(services.items()):
        print(f"{count:8} {name}")
    print("the last life ended in order" if contents.last_index else "the last life was killed")
    return 0


def _cannot_start(why: str, log_format: str = "auto", status: int = 2) -> int:
    print(logs.cannot_start(why, log_format, os.environ, sys.stderr), file=sys.stderr)
    return status
