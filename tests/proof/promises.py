"""What a flood must not do to leases, memory and descriptors: a judge of what was seen, who sees nothing himself.

All moments are seconds on one monotonic clock, that of whoever asks. What the registry says it has lost (the seconds
for which its lease clock stood still, as it could not hear everyone) is asked for before a lease begins and after a
list has come, so that a lease is never held to end earlier than it may.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: Seconds by which what is said of lost time is rounded, and more.
ROUNDING = 0.01
#: Answers that are refusals for our own reasons: none at all, too many requests, no room.
REFUSALS = {0, 429, 503}


class Beat(NamedTuple):
    """A heartbeat and its status; 0 where there was no answer."""

    asked: float
    answered: float
    status: int


class Look(NamedTuple):
    """A list of all witnesses, and what the registry said of itself after it."""

    asked: float
    answered: float
    listed: frozenset[str]
    #: Seconds that the lease clock has lost since the start.
    lost: float = 0.0
    #: Bytes that wait for clients.
    waiting: int = 0
    #: Connections and requests that were refused since the start, and connections that were cut off or had to go.
    refused: int = 0
    cut_off: int = 0


class Lease(NamedTuple):
    """A lease that begins with an answer, and that nobody keeps."""

    instance_id: str
    asked: float
    answered: float
    ttl: float
    #: Seconds that the lease clock had lost by then.
    lost: float = 0.0


class Strain(NamedTuple):
    """What an attack has cost: the most memory (bytes) and descriptors at a time and what they may be; then how many
    descriptors are left of those that were not there before, and how many bytes still wait, when all had time to go."""

    attack: str
    attempts: int
    memory: int
    most_memory: int
    files: int
    most_files: int
    left_files: int = 0
    left_waiting: int = 0


class Ending(NamedTuple):
    """How it ended after SIGTERM: its status (None: not in time), and what its log has that none should have."""

    status: int | None = 0
    loud: Sequence[str] = ()


class Story(NamedTuple):
    """All that was seen of one registry."""

    #: The heartbeats of those who keep their leases, by instance; the first is the registration.
    beats: Mapping[str, Sequence[Beat]]
    looks: Sequence[Look]
    dead: Sequence[Lease]
    strains: Sequence[Strain]
    ending: Ending


def judge(story: Story) -> list[str]:
    """The promises that were broken, each as a sentence."""
    broken = [
        sentence for instance_id, beats in story.beats.items() for sentence in _kept(instance_id, beats, story.looks)
    ]
    for lease in story.dead:
        broken += _ended(lease, story.looks)
    for strain in story.strains:
        broken += _bounded(strain)
    if story.ending.status not in (0, 1):
        how = "did not end in time" if story.ending.status is None else f"ended with status {story.ending.status}"
        broken.append(f"after SIGTERM it {how}")
    return broken + [f"in the log: {line}" for line in story.ending.loud]


def _kept(instance_id: str, beats: Sequence[Beat], looks: Sequence[Look]) -> list[str]:
    """A lease that is kept must be in every list. Each heartbeat is an answer or a refusal for reasons of our own."""
    broken = []
    odd = sorted({beat.status for beat in beats} - {200} - REFUSALS)
    if odd:
        broken.append(f"{instance_id}: heartbeats were answered {', '.join(map(str, odd))}")
    if not any(beat.status == 200 for beat in beats):
        return [*broken, f"{instance_id}: no heartbeat was ever answered"]
    begun = next(beat.answered for beat in beats if beat.status == 200)
    seen = [look for look in looks if look.asked > begun]
    gaps = [look for look in seen if instance_id not in look.listed]
    if not seen:
        broken.append(f"{instance_id}: nobody has ever looked")
    if gaps:
        broken.append(f"{instance_id}: not listed in {len(gaps)} of {len(seen)} lists, although its lease is kept")
    return broken


def end_of(lease: Lease, looks: Sequence[Look]) -> Look | None:
    """The first look that does not find a lease any more; None, where all do."""
    return next((look for look in looks if look.asked > lease.answered and lease.instance_id not in look.listed), None)


def _ended(lease: Lease, looks: Sequence[Look]) -> list[str]:
    """A lease that nobody keeps ends with its ttl, and what the clock has lost meanwhile; neither before nor after."""
    end = end_of(lease, looks)
    if end is None:
        return [f"{lease.instance_id}: its lease never ended"]
    broken = []
    if end.answered < lease.asked + lease.ttl:
        broken.append(f"{lease.instance_id}: gone after {end.answered - lease.asked:.3f} s of {lease.ttl:g}")
    for look in looks:
        may = lease.ttl + look.lost - lease.lost + ROUNDING
        if lease.instance_id in look.listed and look.asked > lease.answered + may:
            broken.append(
                f"{lease.instance_id}: listed {look.asked - lease.answered:.3f} s after its registration, of which "
                f"{look.lost - lease.lost:.3f} s do not count, with a ttl of {lease.ttl:g} s"
            )
            break
    return broken


def _bounded(strain: Strain) -> list[str]:
    broken = []
    if not strain.attempts:
        broken.append("nothing was tried")
    if strain.memory > strain.most_memory:
        broken.append(f"{strain.memory / 1e6:.0f} MB of memory, where {strain.most_memory / 1e6:.0f} are the most")
    if strain.files > strain.most_files:
        broken.append(f"{strain.files} files open, where {strain.most_files} are the most")
    if strain.left_files > 0:
        broken.append(f"{strain.left_files} files left open")
    if strain.left_waiting:
        broken.append(f"{strain.left_waiting} bytes still wait for nobody")
    return [f"{strain.attack}: {sentence}" for sentence in broken]
