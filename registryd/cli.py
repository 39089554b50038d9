"""The command line: reads the settings, sets up the log, runs the server, and turns what went wrong into one line."""

import asyncio
import os
import sys
from collections.abc import Sequence

from registryd import logs
from registryd.config import BadSetting, Config, load
from registryd.listeners import CannotListen
from registryd.server import NotInstalled, Server, choose_http, loop_factory


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon until it is stopped. 0: stopped in order; 1: something was cut off; 2: could not start."""
    if sys.stderr is None:  # closed by whoever started us, who does not want to hear anything
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of our life
    try:
        config = load(sys.argv[1:] if argv is None else argv, os.environ)
    except BadSetting as error:
        return _cannot_start(str(error))
    change_log = logs.set_up(config.log_level, config.log_format, os.environ, sys.stderr)
    try:
        http = choose_http(config.http)
        with asyncio.Runner(loop_factory=loop_factory(http)) as runner:
            return runner.run(_serve(config, http, change_log))
    except (CannotListen, NotInstalled) as error:
        return _cannot_start(str(error), config.log_format)
    finally:
        change_log.close()


async def _serve(config: Config, http: str, change_log: logs.ChangeLog) -> int:
    return await Server(config, os.environ, http, change_log).run()


def _cannot_start(why: str, log_format: str = "auto") -> int:
    print(logs.cannot_start(why, log_format, os.environ, sys.stderr), file=sys.stderr)
    return 2
