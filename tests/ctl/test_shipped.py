"""The completions and the man page that are shipped: as the parser has it, and working."""

import argparse
import shutil
import subprocess

import pytest
from shipped import FOLDER, commands, files
from terminal import Ctl

from registryd.ctl.arguments import SHELLS
from registryd.ctl.statuses import rows


@pytest.mark.parametrize("name", sorted(files()))
def test_they_are_made_of_the_parser(name: str) -> None:
    assert (FOLDER / name).read_text() == files()[name], "run tests/shipped.py"


def test_nothing_else_is_shipped() -> None:
    assert {path.name for path in FOLDER.iterdir()} == files().keys()


def completed(line: str, folder: str) -> list[str]:
    """What a real bash offers at the end of a line."""
    script = """
    source registryctl.bash
    read -ra COMP_WORDS <<< "$1"; [[ $1 == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )) COMP_LINE=$1 COMP_POINT=${#1}
    $(complete -p registryctl | sed 's/.*-F \\([^ ]*\\).*/\\1/') registryctl "${COMP_WORDS[COMP_CWORD]}" ""
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    ran = subprocess.run(["bash", "-c", script, "bash", line], cwd=folder, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return [word.strip() for word in ran.stdout.split()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("registryctl dr", ["drain"]),
        ("registryctl w", ["watch", "wait"]),
        ("registryctl drain --re", ["--registry", "--reason"]),
        ("registryctl register --status st", ["starting"]),
        ("registryctl completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_bash_completes(line: str, words: list[str]) -> None:
    assert completed(line, str(FOLDER)) == words


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_its_completion(ctl: Ctl, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"only {shell} itself can tell: apt-get install {shell} (.ci/run does)")
    ran = ctl(f"completion {shell}")
    checked = subprocess.run([shell, "-n"], input=ran.out, capture_output=True, text=True, check=False)

    assert ran.status == 0
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def options(command: argparse.ArgumentParser) -> set[str]:
    return {option for action in command._actions for option in action.option_strings if option.startswith("--")}


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_help_and_the_man_page_have_each_option_and_each_status(ctl: Ctl, name: str) -> None:
    page = (FOLDER / "registryctl.1").read_text().replace(r"\-", "-")
    own = page.partition(f'\n.SS "{name}')[2].partition("\n.S")[0] + page.partition("\n.SH COMMON OPTIONS")[2]
    said = ctl(f"{name} --help").out

    assert [option for option in options(commands()[name]) if option not in own or option not in said] == []
    statuses = said.partition("exit status:\n")[2]
    for status, text in rows():
        assert f"  {status:<4} {text}\n" in statuses
        assert f".B {status}\n{text}\n" in page.partition(".SH EXIT STATUS")[2]


@pytest.mark.skipif(
    shutil.which("groff") is None, reason="only groff can tell: apt-get install groff-base (.ci/run does)"
)
def test_the_man_page_has_nothing_that_groff_wonders_at() -> None:
    ran = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", str(FOLDER / "registryctl.1")], capture_output=True, text=True, check=True
    )

    assert ran.stderr == ""
    assert "REGISTRYCTL(1)" in ran.stdout
