"""A box in which registryd is installed as the README says."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box
from readme import block, checkout

PYTHON = Path("/usr/bin/python3")  # the system's own: in the box nothing else is sure to be readable


@pytest.fixture(scope="package")
def installed() -> Iterator[Box]:
    """Boots once for all tests here; from a folder of wheels, as the box has no network."""
    missing = [tool for tool in ("curl", "git", "systemctl", str(PYTHON)) if shutil.which(tool) is None]
    why_not = f"no {', '.join(missing)}" if missing else Box.why_not()
    if why_not:
        pytest.skip(f"cannot boot systemd here: {why_not}")
    folder = Path(tempfile.mkdtemp(prefix="box-"))
    box = Box(folder)
    try:
        box.prepare()
        source = checkout(folder / "upper/srv/registryd")
        subprocess.run(
            ["bash", "-ec", block("Under systemd", "sh", 1)], cwd=source, check=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        )  # fmt: skip
        box.boot()
        box.changed_before_installing = box.changed()
        box.shell(f"cd /srv/registryd; {block('Under systemd', 'sh', 2)}")
        yield box
    finally:
        box.end()


@pytest.fixture
def box(installed: Box) -> Box:
    """The box, with registryd just started: no state, and its settings as they are shipped."""
    installed.shell(
        "rm -rf /run/systemd/system/registryd.*.d; install -m 644 /srv/registryd/systemd/registryd.default "
        "/etc/default/registryd; systemctl daemon-reload; systemctl stop registryd.socket registryd.service; "
        "rm -rf /var/lib/private/registryd/*; systemctl reset-failed registryd.socket registryd.service; "
        "systemctl start registryd"
    )
    return installed
