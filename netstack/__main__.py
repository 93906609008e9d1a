"""``python -m netstack NAME``: the same commands as the ``netstack`` script."""

import sys

from netstack.cmd.main import main

sys.exit(main())
