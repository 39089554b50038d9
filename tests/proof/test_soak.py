"""The soak in its short form."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest


@pytest.mark.parametrize("http", ["front", "tornado"])
def test_a_short_soak_leaves_no_file_open_and_no_line_above_info(http: str, tmp_path: Path) -> None:
    soak, plot = Path(__file__).parent / "soak.py", tmp_path / "soak.svg"
    short = ["--seconds", "2", "--fill", "500", "--seed", "7", "--http", http, "--svg", str(plot)]
    ran = subprocess.run([sys.executable, str(soak), *short], capture_output=True, text=True, check=False)

    *_, last = (line for line in ran.stdout.splitlines() if line.startswith("memory of"))
    assert ran.stdout.splitlines()[-1] == last, "no client has failed"
    assert re.search(r"; files left open (0|-\d+); lines above INFO 0; exit 0$", last), ran.stdout
    assert ran.stderr == ""
    assert len(ET.fromstring(plot.read_text()).findall("{http://www.w3.org/2000/svg}polyline")) == 3
