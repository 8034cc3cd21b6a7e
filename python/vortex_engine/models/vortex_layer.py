"""One layer of a VORTEX model over packed matrices, and the wiring that makes them in the order of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.layers import (
    LavaLayer,
    LocalConv,
    PagedLinear,
    RMSNorm,
    SSMLayer,
    SSMWeights,
    WindowAttention,
)
from vortex_engine.models.rope import RopeConfig, inverse_frequencies

if TYPE_CHECKING:
    from vortex_engine.models.tensors import TensorTable
    from vortex_engine.models.vortex_config import VortexConfig
    from vortex_engine.ops import OpContext
    from vortex_engine.state import LavaState, RecurrentState, WindowState

__all__ = ["Planes", "VortexLayer", "VortexWiring"]

Floats = NDArray[np.float32]
Planes = Literal["all", "prefix"]


@dataclass(frozen=True)
class Mlp:
    """down(silu(gate(x)) * up(x)); source: arXiv:2002.05202, equation 6."""

    ctx: OpContext
    gate_up: PagedLinear
    down: PagedLinear

    def __call__(self, x: Floats) -> Floats:
        return self.down(ops.swiglu(self.ctx, *self.gate_up(x)))[0]


@dataclass(frozen=True)
class VortexLayer:
    """The parts of one layer, None where it does not have them, each behind the norm of its own.

    Attributes:
        places: of conv and ssm among a sequence's recurrent layers, of attention and lava among those of their kind.
    """

    norms: dict[str, RMSNorm]
    places: dict[str, int]
    conv: LocalConv | None
    attention: WindowAttention | None
    ssm: SSMLayer | None
    lava: LavaLayer | None
    mlp: Mlp | None

    def mix(self, h: Floats, recurrent: RecurrentState, window: WindowState | None, lava: LavaState | None) -> None:
        """All parts that see other positions, on h [T, hidden] in place."""
        if self.conv is not None or self.attention is not None:
            x = self.norms["local"](h)
            if self.conv is not None:
                y = self.conv(x, recurrent, self.places["conv"])
                h += y
                if self.attention is not None:
                    x += y
            if self.attention is not None:
                assert window is not None
                h += self.attention(x, window, self.places["attention"])
        if self.ssm is not None:
            h += self.ssm(self.norms["ssm"](h), recurrent, self.places["ssm"])
        if self.lava is not None:
            assert lava is not None
            h += self.lava(self.norms["lava"](h), lava, self.places["lava"])

    def feed(self, h: Floats, chosen: NDArray[np.bool_] | None = None) -> None:
        """The MLP, on h [T, hidden] in place; of the `chosen` rows alone where they are given."""
        if self.mlp is None:
            return
        if chosen is None:
            h += self.mlp(self.norms["mlp"](h))
        elif chosen.any():
            h[chosen] += self.mlp(self.norms["mlp"](h[chosen]))


class VortexWiring:
    """Names the parts in forward order, so that the order of their matrices is the sweep."""

    def __init__(self, config: VortexConfig, table: TensorTable, ctx: OpContext, pager: Any, activations: str) -> None:
        self._config = config
        self._table = table
        self._ctx = ctx
        self._pager = pager
        self._activations = activations
        self._inv_freq = np.zeros(0)
        if config.attention is not None:
            self._inv_freq = inverse_frequencies(RopeConfig(config.rope_theta), config.attention.head_dim)
        self._n_placed = {"recurrent": 0, "attention": 0, "lava": 0}
        self.sweep: list[int] = []

    def layer(self, index: int) -> dict[Planes, VortexLayer]:
        """Layer number `index`, by the planes that its matrices are read from."""
        config, prefix = self._config, f"model.layers.{index}."
        parts = config.layer_parts[index]
        names = {"conv": "local", "attention": "local", "ssm": "ssm", "lava": "lava", "mlp": "mlp"}
        norms = {names[part]: self._norm(f"{prefix}{names[part]}_norm.weight") for part in parts}
        places = {part: self._place(part) for part in parts if part != "mlp"}
        conv = self._conv(prefix + "local.conv1d.") if "conv" in parts else None
        attention = self._attention(prefix + "local.") if "attention" in parts else None
        ssm = self._ssm(prefix + "ssm.") if "ssm" in parts else None
        lava = self._lava(prefix + "lava.") if "lava" in parts else None
        mlp = self._mlp(prefix + "mlp.") if "mlp" in parts else None

        def of(made: Any, planes: Planes) -> Any:
            return None if made is None else made[planes]

        return {
            planes: VortexLayer(
                norms, places, conv, of(attention, planes), of(ssm, planes), of(lava, planes), of(mlp, planes)
            )
            for planes in ("all", "prefix")
        }

    def _place(self, part: str) -> int:
        kind = "recurrent" if part in ("conv", "ssm") else part
        self._n_placed[kind] += 1
        return self._n_placed[kind] - 1

    def _norm(self, name: str) -> RMSNorm:
        return RMSNorm(self._ctx, self._table.vector(name, self._config.hidden_size), self._config.rms_norm_eps)

    def _conv(self, name: str) -> LocalConv:
        hidden, width = self._config.hidden_size, self._config.conv_kernel
        weight = self._table.finite(name + "weight", (hidden, 1, width))[:, 0]
        return LocalConv(self._ctx, weight, self._table.finite(name + "bias", (hidden,)))

    def _attention(self, name: str) -> dict[Planes, WindowAttention]:
        shape, hidden = self._config.attention, self._config.hidden_size
        assert shape is not None
        q_rows, kv_rows = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
        qkv = self._linear([(name + "q_proj", q_rows), (name + "k_proj", kv_rows), (name + "v_proj", kv_rows)], hidden)
        o = self._linear([(name + "o_proj", hidden)], q_rows)
        return {planes: WindowAttention(self._ctx, shape, qkv[planes], o[planes], self._inv_freq) for planes in qkv}

    def _ssm(self, name: str) -> dict[Planes, SSMLayer]:
        config, table, shape = self._config, self._table, self._config.ssm
        assert shape is not None
        # In float64, rounded once: the bits are those of every machine.
        logs = table.finite(name + "A_log", (shape.n_heads,)).astype(np.float64)
        weights = SSMWeights(
            conv_weight=table.finite(name + "conv1d.weight", (shape.conv_channels, 1, shape.conv_width))[:, 0],
            conv_bias=table.finite(name + "conv1d.bias", (shape.conv_channels,)),
            rates=(-np.exp(logs)).astype(np.float32),
            skip=table.finite(name + "D", (shape.n_heads,)),
            step_bias=table.finite(name + "dt_bias", (shape.n_heads,)),
            norm_weight=table.vector(name + "norm.weight", shape.channels),
            norm_eps=config.rms_norm_eps,
        )
        in_proj = self._linear([(name + "in_proj", shape.in_features)], config.hidden_size)
        out_proj = self._linear([(name + "out_proj", config.hidden_size)], shape.channels)
        return {planes: SSMLayer(self._ctx, shape, weights, in_proj[planes], out_proj[planes]) for planes in in_proj}

    def _lava(self, name: str) -> dict[Planes, LavaLayer]:
        shape, hidden = self._config.lava, self._config.hidden_size
        assert shape is not None
        scales = np.exp(self._table.finite(name + "log_scale", (shape.n_heads,)).astype(np.float64)).astype(np.float32)
        q = self._linear([(name + "q_proj", shape.n_heads * shape.key_dim)], hidden)
        kv = self._linear([(name + "k_proj", shape.key_dim), (name + "v_proj", shape.value_dim)], hidden)
        o = self._linear([(name + "o_proj", hidden)], shape.n_heads * shape.value_dim)
        return {planes: LavaLayer(self._ctx, shape, scales, q[planes], kv[planes], o[planes]) for planes in q}

    def _mlp(self, name: str) -> dict[Planes, Mlp]:
        inner, hidden = self._config.intermediate_size, self._config.hidden_size
        gate_up = self._linear([(name + "gate_proj", inner), (name + "up_proj", inner)], hidden)
        down = self._linear([(name + "down_proj", hidden)], inner)
        return {planes: Mlp(self._ctx, gate_up[planes], down[planes]) for planes in gate_up}

    def _linear(self, parts: Sequence[tuple[str, int]], in_features: int) -> dict[Planes, PagedLinear]:
        handles = [self._table.matrix(name + ".weight", (rows, in_features)) for name, rows in parts]
        self.sweep.extend(handles)
        none = [None] * len(handles)
        return {
            planes: PagedLinear(self._ctx, self._pager, handles, none, self._activations, planes)
            for planes in ("all", "prefix")
        }
