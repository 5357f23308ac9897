"""``python -m rinsc``: the same as the command ``rinsc``."""

from __future__ import annotations

import sys

from rinsc.cli import main

if __name__ == "__main__":
    sys.exit(main())
