"""Hostile clients in a short form, against both servers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from process import DEADLINE
from proof.bombs import all_bombs

pytestmark = pytest.mark.e2e

HOSTILE = Path(__file__).with_name("hostile.py")


@pytest.mark.parametrize("http", ["front", "tornado"])
def test_whatever_is_sent_others_are_served_and_nothing_is_left(http: str) -> None:
    short = ["--http", http, "--connections", "500", "--slow", "20", "--deaf", "5", "--size", "300000"]
    ran = subprocess.run([sys.executable, str(HOSTILE), *short], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert f"{len(list(all_bombs(1)))} bombs: " in ran.stdout
    for what in ("heads that come a byte", "bodies that come a byte", "who do not read", "500 idle connections"):
        assert what in ran.stdout
    assert ran.stdout.count("the witness: ") == 2


def test_where_so_many_files_cannot_be_opened_it_says_so() -> None:
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = ["bash", "-c", 'ulimit -n 500; exec "$@"', "", *powerless, sys.executable, str(HOSTILE)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)

    assert ran.returncode == 2
    assert ran.stderr.endswith(
        "no process may open 20200 files here but 500: ask for fewer --connections, or be root\n"
    )
