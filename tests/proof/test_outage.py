"""An outage of the registry in its short form, longer than a lease: no lookup of a running client fails."""

import subprocess
import sys
from pathlib import Path

import pytest
from process import DEADLINE

pytestmark = pytest.mark.e2e


def test_an_outage_of_the_registry_costs_no_lookup() -> None:
    short = [sys.executable, str(Path(__file__).with_name("outage.py")), "--seconds", "1.5", "--keeps"]
    running = [
        subprocess.Popen([*short, keeps], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for keeps in ("memory", "disk")
    ]
    try:
        for one in running:
            stdout, stderr = one.communicate(timeout=3 * DEADLINE)
            assert one.returncode == 0, stdout + stderr
            assert stderr == ""
            assert stdout.count(" lookups, 0 failed; ") == 2
    finally:
        for one in running:
            one.kill()
            one.communicate()
