"""``python -m mmlitmus``: the command."""

import sys

from mmlitmus.cli.main import main

sys.exit(main())
