"""The program `vortex`: parse, call, show; the work itself is done below this package."""

from vortex_engine.cli.edge import main

__all__ = ["main"]
