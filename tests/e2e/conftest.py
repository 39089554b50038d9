"""Starts real daemons."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from process import RunningDaemon, StartDaemon


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts daemons that are ended after the test; a traceback in the log of one fails it."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(RunningDaemon(tmp_path, *args, **more))


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> RunningDaemon:
    return start_daemon()
