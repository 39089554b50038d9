"""A daemon for all tests of the command line, which keep to services of their own; and the command line, run here."""

import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from process import RunningDaemon, StartDaemon
from terminal import Ctl, Ran

from registryd.ctl.cli import main


@pytest.fixture(scope="package")
def registry_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with RunningDaemon(tmp_path_factory.mktemp("daemon")) as daemon:
        yield daemon


@pytest.fixture
def no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of the tests says."""
    for name in ("URL", "TOKEN", "CA", "CERT", "KEY"):
        monkeypatch.setenv(f"REGISTRY_{name}", "")


@pytest.fixture
def ctl(no_registry: None, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """`ctl("get users", registry=daemon.url)`: what comes of it."""

    def run(command: str, *more: str, registry: str = "") -> Ran:
        try:
            status = main([*shlex.split(command), *(["--registry", registry] if registry else []), *more])
        except SystemExit as ended:
            status = int(str(ended.code))
        return Ran(int(status), *capsys.readouterr())

    return run


@pytest.fixture
def here(ctl: Ctl, registry_daemon: RunningDaemon) -> Ctl:
    """The same with a registry that is there."""
    return lambda command, *more: ctl(command, *more, registry=registry_daemon.url)


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts daemons that are ended after the test."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(RunningDaemon(tmp_path, *args, **more))
