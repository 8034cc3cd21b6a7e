"""What a sequence carries between tokens."""

from __future__ import annotations

from vortex_engine.state.hidden import HiddenRows, hidden_rows
from vortex_engine.state.kv import KVState
from vortex_engine.state.lava_bank import LavaBank, fit_basis
from vortex_engine.state.recurrent import RecurrentLayer, RecurrentState, recurrent_layers
from vortex_engine.state.sequence import SequenceState, StatePart

__all__ = [
    "HiddenRows",
    "KVState",
    "LavaBank",
    "RecurrentLayer",
    "RecurrentState",
    "SequenceState",
    "StatePart",
    "fit_basis",
    "hidden_rows",
    "recurrent_layers",
]
