"""`python -m registryd`"""

import sys

from registryd.cli import main

sys.exit(main())
