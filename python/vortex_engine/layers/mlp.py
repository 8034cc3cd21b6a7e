"""The gated feed-forward block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.layers.linear import PagedLinear

if TYPE_CHECKING:
    from vortex_engine.ops import OpContext

__all__ = ["GatedMLP"]


class GatedMLP:
    """down(silu(gate(x)) * up(x)) (arXiv 2002.05202, SwiGLU); gate and up are one group."""

    __slots__ = ("_ctx", "_down", "_gate_up")

    def __init__(self, ctx: OpContext, gate_up: PagedLinear, down: PagedLinear) -> None:
        self._ctx = ctx
        self._gate_up = gate_up
        self._down = down

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        gate, up = self._gate_up(x)
        return self._down(ops.swiglu(self._ctx, gate, up))[0]
