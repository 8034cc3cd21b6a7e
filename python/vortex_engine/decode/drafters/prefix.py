"""Drafts from the prefix planes of the model's own `exact` tiles.

The prefix of a tile is a 5-bit float copy of its weights that costs no byte of its own; kept in RAM, it drafts while
the residuals of the sweep that verifies are on disk (SPEQ, arXiv 2510.18525, does it in hardware).
"""

from __future__ import annotations

from vortex_engine.decode.drafters.protocol import DraftSweep
from vortex_engine.decode.drafters.self_draft import SelfDrafter
from vortex_engine.decode.sampler import Sampler
from vortex_engine.models.effort import Effort
from vortex_engine.state import SequenceState

__all__ = ["prefix_drafter"]


def prefix_drafter(sweep: DraftSweep, state: SequenceState, sampler: Sampler) -> SelfDrafter:
    """All layers, low precision. Tiles of codecs without a residual are read whole."""
    return SelfDrafter("prefix", Effort(planes="prefix"), sweep, state, sampler)
