"""`python -m contray`."""

import sys

from .cli import main

sys.exit(main())
