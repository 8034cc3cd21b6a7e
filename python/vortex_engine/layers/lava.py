"""The LAVA layer: attention over a memory that is read through an index and does not grow with the sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.state.lava_bank import LavaBank

if TYPE_CHECKING:
    from vortex_engine.layers.linear import PagedLinear
    from vortex_engine.layers.shapes import LavaShape
    from vortex_engine.ops import OpContext
    from vortex_engine.state.lava import LavaMemory, LavaState

__all__ = ["LavaLayer", "length_factors"]

Floats = NDArray[np.float32]

_EPS = 1e-6


def length_factors(positions: NDArray[np.int64]) -> Floats:
    """What scores at these positions are multiplied with: 1 + ln(position + 1).

    A softmax over n rows gives the best one a constant share only if scores grow as ln(n); with this factor a read that
    was trained on short sequences stays as sharp on long ones. Source: arXiv:2501.19399, equation 3.
    """
    return (1.0 + np.log(positions + 1.0)).astype(np.float32)


class LavaLayer:
    """[T, hidden] -> [T, hidden]: every row writes one key and one value, and its heads read what came before.

    q = q_proj(x), k, v = kv(x); q and k are divided by their root mean square and sqrt(key_dim), so that |q| = |k| = 1;
    each head reads with scores scale * (1 + ln(position + 1)) * q.k from the recent rows and the bank (see
    `state/lava.py`); o(the heads side by side). A row whose position is no multiple of `shape.read_every` adds nothing.

    Args:
        scales: of the heads' scores, [H] float32, above zero.
        q: projection to [H * key_dim] columns; kv: to [key_dim] and [value_dim]; o: from [H * value_dim].
    """

    def __init__(
        self, ctx: OpContext, shape: LavaShape, scales: Floats, q: PagedLinear, kv: PagedLinear, o: PagedLinear
    ) -> None:
        self._ctx = ctx
        self._shape = shape
        self._scales = scales
        self._q, self._kv, self._o = q, kv, o
        self._unit = np.full(shape.key_dim, shape.key_dim**-0.5, np.float32)

    def new_bank(self) -> LavaBank:
        """An empty bank of this layer's sizes."""
        shape = self._shape
        return LavaBank(
            self._ctx,
            shape.key_dim,
            shape.value_dim,
            capacity=shape.capacity,
            nlist=shape.n_lists,
            contents=shape.contents,
            half_life=shape.half_life,
        )

    def __call__(self, x: Floats, state: LavaState, index: int) -> Floats:
        """The layer as number `index` of a pass; `state` takes the rows up."""
        shape, memory, start, end = self._shape, state.layers[index], state.length, state.length + len(x)
        step, width = shape.read_every, state.WINDOW
        reading = slice(-start % step, None, step)  # rows at multiples of the step
        asking = np.ascontiguousarray(x[reading])
        q = self._normed(self._q(asking)[0]) if len(asking) else asking  # a matrix without rows is not read
        k, v = self._kv(x)
        memory.put(start, state.floor, self._normed(k), v)
        parts: list[Floats] = []
        n_read = 0
        for window in range(start // width, (end - 1) // width + 1):
            memory.enter(window, state.written)
            inside = range(max(start, window * width), min(end, (window + 1) * width))
            positions = np.arange(inside.start + -inside.start % step, inside.stop, step)
            if len(positions):
                heads = q[n_read : n_read + len(positions) * shape.n_heads]
                parts.append(self._read(memory, heads, positions, window))
                n_read += len(heads)
        if not parts:
            return np.zeros_like(x)
        read = self._o(parts[0] if len(parts) == 1 else np.concatenate(parts))[0]
        if step == 1:
            return read
        out = np.zeros_like(x)
        out[reading] = read
        return out

    def _normed(self, rows: Floats) -> Floats:
        return ops.rms_norm(self._ctx, rows.reshape(-1, self._shape.key_dim), self._unit, _EPS)

    def _read(self, memory: LavaMemory, q: Floats, positions: NDArray[np.int64], window: int) -> Floats:
        """What rows of one window read, [R, H * value_dim], their queries [R * H, key_dim]."""
        shape = self._shape
        first, keys, values = memory.recent(window, int(positions[-1]) + 1)
        # The rows given begin with the first that is seen, whatever is kept before it: that shows in no bit.
        seen = np.zeros((len(q), 2), np.int64)
        seen[:, 1] = np.repeat(positions + 1 - first, shape.n_heads)
        scales = (length_factors(positions + memory.offset)[:, None] * self._scales).ravel()
        out = ops.lava_read(self._ctx, memory.bank, q, scales, shape.n_probe, shape.k, shape.tail, keys, values, seen)
        return out.reshape(len(positions), -1)
