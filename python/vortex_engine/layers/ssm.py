"""The state-space layer with one decay a head: Mamba-2's mixer, and the recurrence of the VORTEX model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.layers.norm import GroupedRMSNorm
from vortex_engine.state import RecurrentLayer

if TYPE_CHECKING:
    from vortex_engine.layers.linear import PagedLinear
    from vortex_engine.ops import OpContext
    from vortex_engine.state import RecurrentState

__all__ = ["SSMLayer", "SSMShape", "SSMWeights"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SSMShape:
    """Sizes of a layer: heads of `head_dim` channels, in groups that share B and C of `n_state` states."""

    n_heads: int
    head_dim: int
    n_state: int
    n_groups: int
    conv_width: int

    @property
    def channels(self) -> int:
        """Of u, z and y."""
        return self.n_heads * self.head_dim

    @property
    def readout(self) -> int:
        """Columns of B, and of C."""
        return self.n_groups * self.n_state

    @property
    def conv_channels(self) -> int:
        """u, B and C go through the convolution."""
        return self.channels + 2 * self.readout

    @property
    def in_features(self) -> int:
        """Rows of in_proj: z; u, B and C; a step for every head."""
        return self.channels + self.conv_channels + self.n_heads


@dataclass(frozen=True, eq=False)
class SSMWeights:
    """What a layer has besides its projections.

    Attributes:
        conv_weight: [conv_channels, W]; conv_bias: [conv_channels] or None.
        rates: A, [H], below zero where states fade; skip: D, [H]; step_bias: of the steps, [H].
        norm_weight: [channels], of the RMS norm of each group of channels; norm_eps: its epsilon.
    """

    conv_weight: Floats
    conv_bias: Floats | None
    rates: Floats
    skip: Floats
    step_bias: Floats
    norm_weight: Floats
    norm_eps: float


class SSMLayer:
    """[T, hidden] -> [T, hidden]: z, (u, B, C), steps = in_proj(x); u, B, C = silu(conv(u, B, C)); y = scan * silu(z);
    out_proj(norm(y)).

    Source: arXiv:2405.21060, section 7 and figure 6.
    """

    def __init__(
        self, ctx: OpContext, shape: SSMShape, weights: SSMWeights, in_proj: PagedLinear, out_proj: PagedLinear
    ) -> None:
        self._ctx = ctx
        self._shape = shape
        self._weights = weights
        self._in, self._out = in_proj, out_proj
        self._norm = GroupedRMSNorm(ctx, weights.norm_weight, weights.norm_eps, shape.n_groups)
        # Channel by channel in memory, as the kernels read it.
        self._conv_weight = np.ascontiguousarray(weights.conv_weight.T).T

    def new_memory(self) -> RecurrentLayer:
        """What a sequence carries for this layer, at its beginning."""
        shape = self._shape
        plain, blocks = (1, shape.channels, shape.n_state), (1, shape.channels // 16, shape.n_state, 16)
        inputs = (shape.channels, shape.n_heads, shape.readout)
        return RecurrentLayer(plain if shape.head_dim % 16 else blocks, shape.conv_width, shape.conv_channels, inputs)

    def __call__(self, x: Floats, state: RecurrentState, index: int) -> Floats:
        """The layer as number `index` of a pass; `state` takes the rows up."""
        shape, weights, channels = self._shape, self._weights, self._shape.channels
        memory = state.begin_layer(index, self._replay)
        projected = self._in(x)[0]
        gate, steps = projected[:, :channels], projected[:, channels + shape.conv_channels :]
        columns = projected[:, channels : channels + shape.conv_channels]
        mixed = ops.causal_conv1d(
            self._ctx,
            columns.T[None],
            self._conv_weight,
            weights.conv_bias,
            "silu",
            initial_state=memory.window.T[None],
        )[0].T
        u, b, c = (
            mixed[:, :channels],
            mixed[:, channels : channels + shape.readout],
            mixed[:, channels + shape.readout :],
        )
        y = ops.ssm_scan(
            self._ctx,
            u.T[None],
            steps.T[None],
            weights.rates,
            self._grouped(b),
            self._grouped(c),
            weights.skip,
            gate.T[None],
            weights.step_bias,
            delta_softplus=True,
            initial_state=memory.source,
            last_state=memory.target,
        )
        memory.end(columns, (u, steps, b))
        return self._out(self._norm(y[0].T))[0]

    def _grouped(self, rows: Floats) -> Floats:
        """[T, G * N] as [1, G, N, T]."""
        return rows.reshape(len(rows), self._shape.n_groups, self._shape.n_state).transpose(1, 2, 0)[None]

    def _replay(self, inputs: Sequence[Floats], initial: Floats, last: Floats) -> None:
        u, steps, b = inputs
        # The outputs are not used, so B may stand for C.
        ops.ssm_scan(
            self._ctx,
            u.T[None],
            steps.T[None],
            self._weights.rates,
            self._grouped(b),
            self._grouped(b),
            delta_bias=self._weights.step_bias,
            delta_softplus=True,
            initial_state=initial,
            last_state=last,
        )
