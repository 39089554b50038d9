"""The benches still run: in a short form, and without a look at their figures."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest


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


@pytest.mark.skipif(
    shutil.which("wrk") is None,
    reason="wrk makes the load, and only Debian has it, not PyPI: apt-get install wrk (.ci/run does)",
)
def test_the_bench_under_load_prints_its_tables_and_writes_figures_and_plot(tmp_path: Path) -> None:
    bench, figures, plot = Path(__file__).parent / "load.py", tmp_path / "load.json", tmp_path / "load.svg"
    short = ["--seconds", "1", "--rounds", "1", "--only", "lookup", "--servers", "front,tornado"]
    files = ["--json", str(figures), "--svg", str(plot)]
    ran = subprocess.run([sys.executable, str(bench), *short, *files], capture_output=True, text=True, check=True)

    lines = ran.stdout.splitlines()
    assert lines[1].split() == ["front", "tornado"]
    assert [line.split()[0] for line in lines[2:6]] == ["lookup", "requests/s", "×", "p99"]
    assert "lookup, front / nginx" in ran.stdout
    assert [each["server"] for each in json.loads(figures.read_text())["figures"]] == ["front", "tornado"]
    assert ET.fromstring(plot.read_text()).tag == "{http://www.w3.org/2000/svg}svg"


def test_the_bench_of_a_restart_prints_its_table() -> None:
    bench = Path(__file__).parent / "restart.py"
    short = ["--instances", "2000", "--rounds", "1"]
    ran = subprocess.run([sys.executable, str(bench), *short], capture_output=True, text=True, check=True)

    heading, none, all_back = ran.stdout.splitlines()
    assert heading.split() == ["instances", "answers", "after"]
    assert none.split()[0] == "0"
    assert re.fullmatch(r" +2,000 +[\d.]+ s   -?[\d.]+ µs each", all_back)


def test_without_wrk_the_bench_under_load_says_which_package_has_it() -> None:
    bench = Path(__file__).parent / "load.py"
    ran = subprocess.run([sys.executable, str(bench)], env={"PATH": ""}, capture_output=True, text=True, check=False)

    assert ran.returncode == 2
    assert ran.stderr == "wrk is not on the PATH: apt-get install wrk\n"


def test_the_bench_of_scale_prints_memory_lookups_and_pauses() -> None:
    bench = Path(__file__).parent / "scale.py"
    short = ["--instances", "3000", "--ending", "1000"]
    ran = subprocess.run([sys.executable, str(bench), *short], capture_output=True, text=True, check=True)

    lines = ran.stdout.splitlines()
    assert re.fullmatch(r"3,000 instances: \d+ bytes each, as the process has grown", lines[0])
    assert [line.partition(":")[0] for line in lines[2:6]] == [
        "lookup of ten instances, of ten in all",
        "the same, of someone who shows a token",
        "lookup of ten instances, always the same service",
        "lookup of ten instances, any service",
    ]
    assert re.fullmatch(r"1,000 leases end at once +[\d.]+ +[\d.]+ +\d+ lookups in between, all exact", lines[8])


def test_the_bench_of_a_lookup_in_the_client_prints_its_table() -> None:
    bench = Path(__file__).parent / "lookup.py"
    ran = subprocess.run([sys.executable, str(bench), "--instances", "3"], capture_output=True, text=True, check=True)

    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["instances", "what", "µs", "each", "×", "dict.get"]
    assert len(lines) == 1 + 8
