"""Parts of a model over packed matrices: thin classes that call ops and nothing else."""

from __future__ import annotations

from vortex_engine.layers.lava import LavaLayer
from vortex_engine.layers.linear import PagedLinear
from vortex_engine.layers.mixer import LocalConv, WindowAttention
from vortex_engine.layers.norm import GroupedRMSNorm, RMSNorm
from vortex_engine.layers.selective import SelectiveMixer, SelectiveWeights
from vortex_engine.layers.shapes import AttentionShape, LavaShape
from vortex_engine.layers.ssm import SSMLayer, SSMShape, SSMWeights

__all__ = [
    "AttentionShape",
    "GroupedRMSNorm",
    "LavaLayer",
    "LavaShape",
    "LocalConv",
    "PagedLinear",
    "RMSNorm",
    "SSMLayer",
    "SSMShape",
    "SSMWeights",
    "SelectiveMixer",
    "SelectiveWeights",
    "WindowAttention",
]
