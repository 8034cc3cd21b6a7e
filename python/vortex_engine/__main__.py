"""`python -m vortex_engine` is the `vortex` program."""

from __future__ import annotations

import sys

from vortex_engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
