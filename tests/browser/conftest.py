"""A real headless Chromium for all tests here, and a registryd for it to look at."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from page import Page, start_chromium
from process import RunningDaemon, StartDaemon
from selenium.webdriver import Chrome

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WHY_NOT = (
    "only a real browser shows the page, and PyPI has none: apt-get install chromium chromium-driver (.ci/run does)"
)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Chrome]:
    """One for all, as it takes seconds to start."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip(WHY_NOT)
    driver = start_chromium(CHROMIUM, CHROMEDRIVER)
    yield driver
    driver.quit()


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Starts daemons that are ended after the test; a traceback in the log of one fails it."""
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(RunningDaemon(tmp_path, *args, **more))


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One for all tests that do it no harm."""
    with RunningDaemon(tmp_path_factory.mktemp("shared"), "--heartbeat-timeout", "3600") as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: RunningDaemon) -> RunningDaemon:
    """A registryd in which nothing is registered."""
    for name in shared.fetch("/services").json["services"]:
        for instance in shared.fetch(f"/services/{name}?status=any").json["instances"]:
            at = quote(instance["instance_id"])
            if "override" in instance:
                shared.fetch(f"/resume/{at}", "POST")
            shared.fetch(f"/deregister/{at}", "DELETE")
    return shared


@pytest.fixture
def page(chromium: Chrome, start_daemon: StartDaemon) -> Iterator[Page]:
    """A page to open, left before the daemons go; whatever the browser has complained of fails the test, unless it
    `expects` that."""
    page = Page(chromium)
    yield page
    page.close()
