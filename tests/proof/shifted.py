"""A registryd whose wall clock is off: `python tests/proof/shifted.py FILE ...`, with flags as registryd has.

By how many seconds, the file says (`shift` writes it), at any time. The machine's own clock stays as it is, and the
monotonic one knows nothing of it, as after a real jump.
"""

import mmap
import struct
import sys
import time
from pathlib import Path

SECONDS = struct.Struct("d")


def shift(path: Path, seconds: float) -> None:
    """Has the wall clock of who runs with this file jump."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(SECONDS.pack(seconds))


def run(path: Path) -> int:
    with path.open("rb") as file:
        seconds = mmap.mmap(file.fileno(), SECONDS.size, prot=mmap.PROT_READ)
    true_time = time.time
    time.time = lambda: true_time() + SECONDS.unpack_from(seconds)[0]
    from registryd.cli import main  # which takes the clock as it is by now

    return main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
