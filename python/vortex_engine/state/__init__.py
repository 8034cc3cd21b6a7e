"""What a sequence carries between tokens."""

from __future__ import annotations

from vortex_engine.state.kv import KVState

__all__ = ["KVState"]
