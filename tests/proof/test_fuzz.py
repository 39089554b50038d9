"""Each target of the fuzzer keeps its promises for a while, and the fuzzer is able to find where one does not."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from proof.fuzz import fuzz

#: Elsewhere `pip install` would have to build it, with a clang of its own.
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="atheris has wheels for x86_64 alone")

RUNS = {"front": 200, "json": 200, "target": 200, "settings": 1000}
FLAGS = ["-seed=1", "-max_len=512", "-timeout=20"]

#: A module of targets like proof.targets, after a fault is put into the product, which takes the right bytes one after
#: the other.
PLANTED = """
from registryd import config
from proof.targets import Target, settings

def name_and_value(where, text, known):
    name, value = sound(where, text, known)
    if value[:1].isupper():
        if value[1:2].isupper():
            if value[2:3].isupper():
                raise ZeroDivisionError
    return name, value

sound, config._name_and_value = config._name_and_value, name_and_value
TARGETS = {"settings": Target(settings, [b"FDSTORE=1"])}
"""


@pytest.mark.parametrize("name", RUNS)
def test_a_target_keeps_its_promises_for_a_while(name: str, tmp_path: Path) -> None:
    outcome = fuzz(name, [*FLAGS, f"-runs={RUNS[name]}"], tmp_path, tmp_path)

    assert outcome.finding is None, outcome.output
    assert outcome.executions >= RUNS[name]
    assert outcome.corpus > 10


def test_a_fault_that_is_planted_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fault_of_settings.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    corpus, findings = tmp_path / "corpus", tmp_path / "findings"
    corpus.mkdir()
    findings.mkdir()
    outcome = fuzz("settings", [*FLAGS, "-runs=50000"], corpus, findings, module="fault_of_settings")

    assert outcome.finding is not None, outcome.output
    assert "ZeroDivisionError" in outcome.output


def test_the_program_fuzzes_the_auth_file_and_says_how_far_it_came() -> None:
    program = Path(__file__).parent / "fuzz.py"
    ran = subprocess.run(
        [sys.executable, str(program), "auth", "--seconds", "1", "--seed", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ran.stdout.startswith("auth: ")
    assert ran.stdout.endswith(" inputs in the corpus, no finding\n")
