"""`python -m registryd.ctl`"""

import sys

from registryd.ctl.cli import main

sys.exit(main())
