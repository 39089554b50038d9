"""Chaos in a short form: everything that can happen, once."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process import DEADLINE, Process
from proof.chaos import FAULTS, plan, why_not

CHAOS = Path(__file__).with_name("chaos.py")

needs_namespaces = pytest.mark.skipif(bool(why := why_not()), reason=f"cannot make a network and a disk here: {why}")


def test_the_same_seed_has_the_same_happen_in_the_same_order() -> None:
    first, again, other = (list(itertools.islice(plan(seed, 4.0), 3 * len(FAULTS))) for seed in (1, 1, 2))

    assert first == again != other
    assert {fault.name for fault in first[: len(FAULTS)]} == FAULTS.keys()


@needs_namespaces
@pytest.mark.e2e
def test_what_clients_see_of_it_is_explained_whatever_happens(tmp_path: Path) -> None:
    short = ["--seed", "3", "--faults", str(len(FAULTS)), "--longest", "1.2"]
    ran = subprocess.run([sys.executable, str(CHAOS), *short], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    assert ran.stdout.startswith("seed 3; ")
    for name in FAULTS:
        assert f"1 x {name}" in ran.stdout, ran.stdout
    assert re.search(r"[1-9]\d* register store_unavailable", ran.stdout), "the disk was full"
    assert ran.stdout.endswith("it ended in order, and nothing is in the log that should not be\n")


def processes() -> dict[int, tuple[str, str]]:
    """The command line and the namespace of each process that there is."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            found[int(folder.name)] = (folder / "cmdline").read_text(), str((folder / "ns/pid").readlink())
    return found


@needs_namespaces
@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_it_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    out = str(tmp_path / "history")
    with Process([sys.executable, str(CHAOS), "--seed", "3", "--out", out]) as process:
        process.wait_for_line(r"^ +\d+\.\d s  ")
        there = processes()
        (namespace,) = {space for words, space in there.values() if out in words} - {there[os.getpid()][1]}
        process.signal(number)
        assert process.wait() == -number

    end = time.monotonic() + DEADLINE
    while namespace in {space for _, space in processes().values()}:
        assert time.monotonic() < end, "all of it ends with whoever has started it"
    assert "/run/chaos" not in Path("/proc/self/mountinfo").read_text()


def test_where_it_cannot_be_had_it_says_so_in_a_line() -> None:
    ran = subprocess.run([sys.executable, str(CHAOS)], env={"PATH": ""}, capture_output=True, text=True, check=False)

    assert ran.returncode == 2
    assert re.fullmatch(r"chaos cannot be had here: .+\n", ran.stderr)
