"""A registryd that waits for nobody for long: `python tests/proof/impatient.py SECONDS ...`, with flags as it has.

All its time-outs are so long, so that a proof of what comes after them takes seconds and not minutes.
"""

import sys

from registryd.api import base, intake

if __name__ == "__main__":
    intake.IDLE_TIMEOUT = intake.BODY_TIMEOUT = base.UNREAD_TIMEOUT = float(sys.argv[1])
    from registryd.cli import main  # which has all that uses them imported, as they are by now

    sys.exit(main(sys.argv[2:]))
