"""systemd/requirements.txt: all that the installed form is made of, each file by its hash, and nothing else."""

import re

from pins import PINNED, asked_for, built_with, needed_to_run, pins


def test_all_that_is_needed_is_pinned_and_nothing_else() -> None:
    assert pins().keys() == needed_to_run() | built_with()


def test_each_is_pinned_to_one_version() -> None:
    for name, pin in pins().items():
        (bound,) = pin.requirement.specifier
        assert (bound.operator, "*" in bound.version) == ("==", False), name


def test_what_is_pinned_is_within_the_bounds_of_setup_py() -> None:
    for requirement in asked_for():
        (bound,) = pins()[requirement.name].requirement.specifier
        assert bound.version in requirement.specifier, requirement.name


def test_each_has_the_hashes_of_its_files() -> None:
    for name, pin in pins().items():
        assert pin.hashes, name
        assert [text for text in pin.hashes if not re.fullmatch("sha256:[0-9a-f]{64}", text)] == [], name
        assert len(pin.hashes) == len(set(pin.hashes)), name


def test_it_holds_for_every_kind_of_host() -> None:
    """A condition would leave out the packages of another Python or processor than that on which it was made."""
    assert [name for name, pin in pins().items() if pin.requirement.marker] == []


def test_it_says_how_it_is_made_and_not_where() -> None:
    assert re.search(r"^#    pip-compile .*--generate-hashes.* setup\.py$", PINNED, re.MULTILINE)
    assert not re.search(r"://|(^|[\s=])/", PINNED, re.MULTILINE)
