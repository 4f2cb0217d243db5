"""`python -m dear` is `dear`, for `torchrun -m dear` and `accelerate launch -m dear`."""

import sys

from dear.cli.main import main

sys.exit(main())
