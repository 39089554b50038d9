"""A box in which registryd is installed as the README says."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from box import Box
from readme import block, checkout

#: Every file of the box, but for what the kernel shows, what is gone after a boot, what the tests bring, and what
#: systemd writes for itself: the journal, its random seed and the times of timers.
LIST_FILES = """#!/bin/sh
find / -xdev \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /dev -o -path /srv -o -path /var/log \\
    -o -path /var/tmp -o -path /var/lib/systemd \\) -prune -o -print | sort
"""
PYTHON = Path("/usr/bin/python3")  # the system's own: in the box nothing else is sure to be readable


@pytest.fixture(scope="session")
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
        wheels = folder / "upper/srv/wheels"
        pip = f"{folder}/venv/bin/pip"
        for command in (
            [str(PYTHON), "-m", "venv", f"{folder}/venv"],
            [pip, "install", "-q", "wheel"],
            [pip, "wheel", "-q", "-w", str(wheels), ".[speed]", "setuptools", "wheel"],
        ):
            subprocess.run(command, cwd=source, check=True)
        for built in wheels.glob("registryd-*"):  # it is to be built in the box
            built.unlink()
        box.boot()
        box.shell(
            f"cat > /srv/list-files <<'END'\n{LIST_FILES}END\n"
            "chmod +x /srv/list-files; /srv/list-files > /srv/files-before"
        )
        # As the README has it for a host with a network, and with what it has for one without.
        box.shell(f"cd /srv/registryd\n{block('Under systemd', 'sh').strip()} --wheels /srv/wheels")
        yield box
    finally:
        box.end()
