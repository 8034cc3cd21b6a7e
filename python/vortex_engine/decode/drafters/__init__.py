"""Where drafted tokens come from: one small file a source, one protocol."""

from __future__ import annotations

from vortex_engine.decode.drafters.protocol import Drafter, DraftSweep

__all__ = ["DraftSweep", "Drafter"]
