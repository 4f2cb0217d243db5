"""`python -m dear.cli` is `dear`."""

import sys

from dear.cli.main import main

sys.exit(main())
