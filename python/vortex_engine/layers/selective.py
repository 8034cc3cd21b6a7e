"""Mamba's mixer: causal convolution, selective scan with a decay of every channel and state, gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.state import RecurrentLayer

if TYPE_CHECKING:
    from vortex_engine.layers.linear import PagedLinear
    from vortex_engine.ops import OpContext
    from vortex_engine.state import RecurrentState

__all__ = ["SelectiveMixer", "SelectiveWeights"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SelectiveWeights:
    """What a mixer has besides its projections; D channels, N states, a kernel of W columns.

    Attributes:
        conv_weight: [D, W]; conv_bias: [D] or None.
        rates: A, [D, N], below zero where states fade; skip: D, [D]; step_bias: of the steps, [D].
        step_rank: columns of x_proj that dt_proj turns into the steps.
    """

    conv_weight: Floats
    conv_bias: Floats | None
    rates: Floats
    skip: Floats
    step_bias: Floats
    step_rank: int


class SelectiveMixer:
    """[T, hidden] -> [T, hidden]: u, z = in_proj(x); u = silu(conv(u)); steps, B, C = x_proj(u); out_proj of the scan.

    Source: arXiv:2312.00752, section 3 and figure 3.
    """

    def __init__(
        self,
        ctx: OpContext,
        weights: SelectiveWeights,
        in_proj: PagedLinear,
        x_proj: PagedLinear,
        dt_proj: PagedLinear,
        out_proj: PagedLinear,
    ) -> None:
        self._ctx = ctx
        self._weights = weights
        self._in, self._x, self._dt, self._out = in_proj, x_proj, dt_proj, out_proj
        self._rates = ops.scan_blocks(weights.rates)
        # Channel by channel in memory, as the kernels read it.
        self._conv_weight = np.ascontiguousarray(weights.conv_weight.T).T

    def new_memory(self) -> RecurrentLayer:
        """What a sequence carries for this layer, at its beginning."""
        channels, width = self._weights.conv_weight.shape
        n_state = self._rates.shape[1]
        return RecurrentLayer((1, *self._rates.shape), width, channels, (channels, channels, n_state))

    def __call__(self, x: Floats, state: RecurrentState, index: int) -> Floats:
        """The mixer as layer `index` of a pass; `state` takes the rows up."""
        weights, channels = self._weights, len(self._weights.skip)
        memory = state.begin_layer(index, self._replay)
        both = self._in(x)[0]
        columns, gate = both[:, :channels], both[:, channels:]
        window = memory.window.T[None]
        u = ops.causal_conv1d(
            self._ctx, columns.T[None], self._conv_weight, weights.conv_bias, "silu", initial_state=window
        )[0].T
        low = self._x(u)[0]
        rank, n_state = weights.step_rank, self._rates.shape[1]
        steps = self._dt(np.ascontiguousarray(low[:, :rank]))[0]
        b, c = low[:, rank : rank + n_state], low[:, rank + n_state :]
        y = ops.ssm_scan(
            self._ctx,
            u.T[None],
            steps.T[None],
            self._rates,
            b.T[None],
            c.T[None],
            weights.skip,
            gate.T[None],
            weights.step_bias,
            delta_softplus=True,
            initial_state=memory.source,
            last_state=memory.target,
        )
        memory.end(columns, (u, steps, b))
        return self._out(y[0].T)[0]

    def _replay(self, inputs: Sequence[Floats], initial: Floats, last: Floats) -> None:
        u, steps, b = (rows.T[None] for rows in inputs)
        bias = self._weights.step_bias
        # The outputs are not used, so B may stand for C.
        ops.ssm_scan(
            self._ctx, u, steps, self._rates, b, b, None, None, bias, True, initial_state=initial, last_state=last
        )
