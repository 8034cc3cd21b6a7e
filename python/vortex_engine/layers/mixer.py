"""The local mixer of a VORTEX layer: a causal depthwise convolution, and attention through a sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.state import RecurrentLayer, WindowLayer

if TYPE_CHECKING:
    from vortex_engine.layers.linear import PagedLinear
    from vortex_engine.layers.shapes import AttentionShape
    from vortex_engine.ops import OpContext
    from vortex_engine.state import RecurrentState, WindowState

__all__ = ["LocalConv", "WindowAttention"]

Floats = NDArray[np.float32]


class LocalConv:
    """[T, D] -> [T, D]: every channel's last W values, weighted, plus a bias; no activation, no projections.

    Args:
        weight: [D, W] float32; bias: [D].

    Source: the convolution of arXiv:2312.00752, figure 3, alone on the residual stream as in arXiv:2512.17351.
    """

    def __init__(self, ctx: OpContext, weight: Floats, bias: Floats) -> None:
        self._ctx = ctx
        # Channel by channel in memory, as the kernels read it.
        self._weight = np.ascontiguousarray(weight.T).T
        self._bias = bias

    def new_memory(self) -> RecurrentLayer:
        """What a sequence carries for it: columns, and a state without elements."""
        channels, width = self._weight.shape
        return RecurrentLayer((0,), width, channels, ())

    def __call__(self, x: Floats, state: RecurrentState, index: int) -> Floats:
        """The convolution as layer `index` of a pass; `state` takes the rows up."""
        memory = state.begin_layer(index, _nothing)
        window = memory.window.T[None]
        y = ops.causal_conv1d(self._ctx, x.T[None], self._weight, self._bias, None, initial_state=window)[0].T
        memory.end(x, ())
        return y


@dataclass(frozen=True)
class WindowAttention:
    """[T, hidden] -> [T, hidden]: o(attention) of rotated queries and keys over the last `shape.window` positions.

    Source: arXiv:2310.06825, section 2 (sliding window); arXiv:2104.09864 (rotary positions).

    Attributes:
        qkv: the three projections; o: the one behind.
        inv_freq: angle per position of each rotated pair, [head_dim / 2] float64.
    """

    ctx: OpContext
    shape: AttentionShape
    qkv: PagedLinear
    o: PagedLinear
    inv_freq: NDArray[np.float64]

    def new_memory(self) -> WindowLayer:
        """What a sequence carries for it, at its beginning."""
        return WindowLayer(self.shape.n_kv_heads, self.shape.head_dim, self.shape.window)

    def __call__(self, x: Floats, state: WindowState, index: int) -> Floats:
        """The attention as layer `index` of a pass; `state` takes the rows up."""
        ctx, shape, n_rows = self.ctx, self.shape, len(x)
        memory = state.begin_layer(index, n_rows)
        cos, sin = ops.rope_table(ctx, np.arange(state.length, state.length + n_rows), self.inv_freq)
        q, k, v = self.qkv(x)
        q = ops.rope(ctx, q.reshape(n_rows, shape.n_heads, shape.head_dim), cos, sin)
        k = ops.rope(ctx, k.reshape(n_rows, shape.n_kv_heads, shape.head_dim), cos, sin)
        at = state.length - memory.start
        ops.kv_append(ctx, k, v.reshape(k.shape), memory.keys, memory.values, at)
        y = ops.attend(ctx, q, memory.keys, memory.values, at, shape.window, shape.head_dim**-0.5)
        return self.o(y.reshape(n_rows, -1))[0]


def _nothing(inputs: Sequence[Floats], initial: Floats, last: Floats) -> None:
    """There is no state to replay."""
