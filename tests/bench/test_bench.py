"""The benches still run: in a short form, and without a look at their figures."""

import subprocess
import sys
from pathlib import Path


def test_the_bench_of_the_core_prints_its_table() -> None:
    bench = Path(__file__).parent / "core.py"
    ran = subprocess.run(
        [sys.executable, str(bench), "--instances", "10", "100"], capture_output=True, text=True, check=True
    )

    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["leases", "what", "µs", "each", "×", "dict.get"]
    assert len(lines) == 1 + 2 * 5


def test_the_bench_of_the_fan_out_prints_its_table() -> None:
    bench = Path(__file__).parent / "fanout.py"
    ran = subprocess.run([sys.executable, str(bench), "--watchers", "20"], capture_output=True, text=True, check=True)

    heading, figures = ran.stdout.splitlines()
    assert heading.split()[0] == "watchers"
    assert figures.split()[0] == "20"
