"""Parts of a model over packed matrices: thin classes that call ops and nothing else."""

from __future__ import annotations

from vortex_engine.layers.linear import PagedLinear
from vortex_engine.layers.norm import RMSNorm

__all__ = ["PagedLinear", "RMSNorm"]
