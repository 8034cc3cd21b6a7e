"""Drafts from the model's first layers and its head (arXiv 2404.16710, section 4.3), read from prefix planes too."""

from __future__ import annotations

from vortex_engine.decode.drafters.protocol import DraftSweep
from vortex_engine.decode.drafters.self_draft import SelfDrafter
from vortex_engine.decode.sampler import Sampler
from vortex_engine.models.effort import Effort
from vortex_engine.state import SequenceState

__all__ = ["early_exit_drafter"]


def early_exit_drafter(sweep: DraftSweep, state: SequenceState, sampler: Sampler, n_layers: int) -> SelfDrafter:
    """The first half of the layers; of a model of one layer, that one."""
    return SelfDrafter("early_exit", Effort("prefix", max(1, n_layers // 2)), sweep, state, sampler)
