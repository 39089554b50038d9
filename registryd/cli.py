"""The command line: reads the settings, sets up the log, runs the server, and turns what went wrong into one line."""

import asyncio
import os
import sys
from collections.abc import Sequence

from registryd import logs
from registryd.config import BadSetting, Config, load
from registryd.listeners import CannotListen
from registryd.server import Server


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the daemon until it is stopped. 0: stopped in order; 1: something was cut off; 2: could not start."""
    if sys.stderr is None:  # closed by whoever started us, who does not want to hear anything
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of our life
    try:
        config = load(sys.argv[1:] if argv is None else argv, os.environ)
    except BadSetting as error:
        return _cannot_start(str(error))
    logs.set_up(config.log_level, os.environ, sys.stderr)
    try:
        return asyncio.run(_serve(config))
    except CannotListen as error:
        return _cannot_start(str(error))


async def _serve(config: Config) -> int:
    return await Server(config, os.environ).run()


def _cannot_start(why: str) -> int:
    print(logs.plain_line(f"registryd: {why}", os.environ, sys.stderr), file=sys.stderr)
    return 2
