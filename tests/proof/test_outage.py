"""An outage of the registry in its short form, longer than a lease: no lookup of a running client fails."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("keeps", ["memory", "disk"])
def test_an_outage_of_the_registry_costs_no_lookup(keeps: str) -> None:
    outage = Path(__file__).with_name("outage.py")
    short = ["--seconds", "1.5", "--keeps", keeps]
    ran = subprocess.run([sys.executable, str(outage), *short], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.count(" lookups, 0 failed; ") == 2
