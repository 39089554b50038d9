"""Floods in a short form, and that whoever judges them finds what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from proof.attacks import ATTACKS
from proof.flood import KINDS
from proof.promises import Beat, Ending, Lease, Look, Story, Strain, judge

FLOOD = Path(__file__).with_name("flood.py")

STRAIN = Strain("one", attempts=1, memory=9, most_memory=10, files=3, most_files=4)
#: One who keeps a lease of 3 s, one who registers at 11.1 and does not; for two seconds of his the clock stood still.
GOOD = Story(
    beats={"kept": [Beat(10.0, 10.1, 200), Beat(11.0, 11.1, 503), Beat(11.5, 11.6, 200), Beat(12.5, 12.6, 0)]},
    looks=[
        Look(10.0, 10.1, frozenset()),
        Look(10.5, 10.6, frozenset({"kept"})),
        Look(12.0, 12.1, frozenset({"kept", "dead"})),
        Look(15.9, 16.0, frozenset({"kept", "dead"}), lost=2.0),
        Look(16.3, 16.4, frozenset({"kept"}), lost=2.0),
    ],
    dead=[Lease("dead", 11.0, 11.1, 3.0)],
    strains=[STRAIN],
    ending=Ending(),
)  # fmt: skip


def test_nothing_is_held_against_who_keeps_his_promises() -> None:
    assert judge(GOOD) == []
    assert judge(GOOD._replace(ending=Ending(1))) == [], "it says so where it has cut off what was under way"


def looks(*changed: Look) -> Story:
    """The same, but for the last looks."""
    return GOOD._replace(looks=[*GOOD.looks[: -len(changed)], *changed])


@pytest.mark.parametrize(
    ("story", "sentence"),
    [
        (looks(Look(16.3, 16.4, frozenset(), lost=2.0)), "kept: not listed in 1 of 4 lists"),
        (GOOD._replace(beats={"kept": [Beat(10, 10.1, 200), Beat(11, 11.1, 404)]}), "kept: heartbeats were answered"),
        (GOOD._replace(beats={"kept": [Beat(10, 10.1, 503)]}), "kept: no heartbeat was ever answered"),
        (GOOD._replace(looks=[*GOOD.looks[:1]], dead=[]), "kept: nobody has ever looked"),
        (looks(Look(16.3, 16.4, frozenset({"kept", "dead"}), lost=3.0)), "dead: its lease never ended"),
        (
            looks(Look(16.2, 16.3, frozenset({"kept", "dead"}), lost=2.0), Look(17.0, 17.1, frozenset({"kept"}))),
            "dead: listed 5.100 s after its registration, of which 2.000 s do not count, with a ttl of 3 s",
        ),
        (looks(Look(13.8, 13.9, frozenset({"kept"}))), "dead: gone after 2.900 s of 3"),
        (GOOD._replace(strains=[STRAIN._replace(attempts=0)]), "one: nothing was tried"),
        (GOOD._replace(strains=[STRAIN._replace(memory=2_000_000)]), "one: 2 MB of memory, where 0 are the most"),
        (GOOD._replace(strains=[STRAIN._replace(files=5)]), "one: 5 files open, where 4 are the most"),
        (GOOD._replace(strains=[STRAIN._replace(left_files=2)]), "one: 2 files left open"),
        (GOOD._replace(strains=[STRAIN._replace(left_waiting=7)]), "one: 7 bytes still wait for nobody"),
        (GOOD._replace(ending=Ending(None)), "after SIGTERM it did not end in time"),
        (GOOD._replace(ending=Ending(-9)), "after SIGTERM it ended with status -9"),
        (GOOD._replace(ending=Ending(0, ["ERROR a"])), "in the log: ERROR a"),
    ],
)  # fmt: skip
def test_each_broken_promise_is_found(story: Story, sentence: str) -> None:
    assert any(found.startswith(sentence) for found in judge(story)), judge(story)


@pytest.mark.e2e
def test_no_flood_ends_a_lease_that_is_kept_or_leaves_anything() -> None:
    short = [sys.executable, str(FLOOD), "--seconds", "0.6", "--server"]
    floods = {
        name: subprocess.Popen([*short, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for name in KINDS
    }
    said = {name: flood.communicate()[0] for name, flood in floods.items()}

    assert {name: flood.returncode for name, flood in floods.items()} == dict.fromkeys(KINDS, 0), said
    for name, text in said.items():
        _, *lines = text.splitlines()
        assert [line[:24].rstrip() for line in lines] == [attack.name for attack in ATTACKS], text
        assert {line[24:39].strip() for line in lines} == {name}
