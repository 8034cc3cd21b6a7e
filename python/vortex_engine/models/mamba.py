"""Mamba and Mamba-2: h += mixer(norm(h)) for each layer, logits = head(norm(h)).

No attention: what a sequence carries has a constant size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vortex_engine.layers import PagedLinear, RMSNorm, SelectiveMixer, SelectiveWeights, SSMLayer, SSMWeights
from vortex_engine.models.effort import FULL, Effort
from vortex_engine.models.ends import Ends
from vortex_engine.models.mamba_config import MambaConfig, parse_config
from vortex_engine.models.tensors import TensorTable
from vortex_engine.state import KVState, RecurrentState, SequenceState, recurrent_layers

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory
    from vortex_engine.ops import OpContext

__all__ = ["Mamba", "build", "parse_config"]


Planes = Literal["all", "prefix"]


def build(directory: C3Directory, pager: Any, handles: dict[str, int], ctx: OpContext, activations: str) -> Mamba:
    """The model of a packed directory; the pager has its matrices under `handles` and is not started."""
    return Mamba(parse_config(directory.config), directory, pager, handles, ctx, activations)


@dataclass(frozen=True)
class _Layer:
    norm: RMSNorm
    mixers: dict[Planes, SelectiveMixer | SSMLayer]


class Mamba:
    """A `LanguageModel` of recurrent layers."""

    multi_token = None

    def __init__(
        self,
        config: MambaConfig,
        directory: C3Directory,
        pager: Any,
        handles: dict[str, int],
        ctx: OpContext,
        activations: str,
    ) -> None:
        self.config = config
        self._ctx = ctx
        self._pager = pager
        table = TensorTable(directory, handles)
        wiring = _Wiring(config, table, ctx, pager, activations)
        self._ends = Ends(
            ctx,
            pager,
            directory,
            table,
            config,
            activations,
            eps=config.norm_eps,
            embedding="backbone.embeddings.weight",
            norm="backbone.norm_f.weight",
        )
        self._layers = [wiring.layer(f"backbone.layers.{i}.") for i in range(config.num_hidden_layers)]
        self.sweep = (*wiring.sweep, self._ends.head)
        self.drafted, self.has_residuals = self._ends.drafted, self._ends.has_residuals
        self.unused_tensors = table.unused(tied_head=self._ends.tied_head)

    def new_state(self, capacity: int) -> SequenceState:
        """An empty sequence with room for `capacity` positions, none of which takes any memory."""
        memories = [layer.mixers["all"].new_memory() for layer in self._layers]
        return SequenceState(KVState(0, 1, 1, capacity), [RecurrentState(memories)])

    def activation_bytes_per_row(self) -> int:
        """An estimate of the temporaries that each row of a forward pass needs."""
        config = self.config
        widest = config.heads.in_features if config.heads else 2 * config.channels
        return 4 * (2 * config.hidden_size + 2 * widest + 3 * config.channels)

    def forward(
        self,
        token_ids: NDArray[np.int64],
        state: SequenceState,
        logits: Literal["last", "all", "none"] = "last",
        effort: Effort = FULL,
        depths: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """As `LanguageModel.forward`; a recurrence has no place for siblings."""
        if depths is not None:
            raise ValueError("[forward] depths must be None: a recurrent state follows one chain, it takes no siblings")
        recurrent, planes = recurrent_layers(state), effort.planes
        h = self._ends.embed(token_ids, planes)
        for index, layer in enumerate(self._layers[: effort.n_layers]):
            h += layer.mixers[planes](layer.norm(h), recurrent, index)
        recurrent.end(len(token_ids))
        state.kv.length += len(token_ids)
        return self._ends.logits(self._ends.normed(h, logits), planes)

    def adopt(self, state: SequenceState, slot: int) -> None:
        """Never called: there are no siblings."""
        raise ValueError(f"[adopt] slot must be that of a sibling, and a recurrent model has none, got {slot}")


class _Wiring:
    """Names the parts in forward order, so that the order of their matrices is the sweep."""

    def __init__(self, config: MambaConfig, table: TensorTable, ctx: OpContext, pager: Any, activations: str) -> None:
        self._config = config
        self._table = table
        self._ctx = ctx
        self._pager = pager
        self._activations = activations
        self.sweep: list[int] = []

    def layer(self, prefix: str) -> _Layer:
        config = self._config
        norm = RMSNorm(self._ctx, self._table.vector(prefix + "norm.weight", config.hidden_size), config.norm_eps)
        return _Layer(norm, self._heads(prefix + "mixer.") if config.heads else self._selective(prefix + "mixer."))

    def _selective(self, mixer: str) -> dict[Planes, SelectiveMixer | SSMLayer]:
        config, table = self._config, self._table
        channels, hidden, n_state, rank = config.channels, config.hidden_size, config.n_state, config.step_rank
        weights = SelectiveWeights(
            conv_weight=self._conv_weight(mixer, channels),
            conv_bias=self._conv_bias(mixer, channels),
            rates=self._rates(mixer, (channels, n_state)),
            skip=table.finite(mixer + "D", (channels,)),
            step_bias=table.finite(mixer + "dt_proj.bias", (channels,)),
            step_rank=rank,
        )
        matrices = [
            self._matrix(mixer + "in_proj", (2 * channels, hidden), bias=config.use_bias),
            self._matrix(mixer + "x_proj", (rank + 2 * n_state, channels), bias=False),
            self._matrix(mixer + "dt_proj", (channels, rank), bias=False),  # the scan adds its bias
            self._matrix(mixer + "out_proj", (hidden, channels), bias=config.use_bias),
        ]
        return {
            planes: SelectiveMixer(self._ctx, weights, *(self._linear(*matrix, planes) for matrix in matrices))
            for planes in ("all", "prefix")
        }

    def _heads(self, mixer: str) -> dict[Planes, SelectiveMixer | SSMLayer]:
        config, table, shape = self._config, self._table, self._config.heads
        assert shape is not None
        weights = SSMWeights(
            conv_weight=self._conv_weight(mixer, shape.conv_channels),
            conv_bias=self._conv_bias(mixer, shape.conv_channels),
            rates=self._rates(mixer, (shape.n_heads,)),
            skip=table.finite(mixer + "D", (shape.n_heads,)),
            step_bias=table.finite(mixer + "dt_bias", (shape.n_heads,)),
            norm_weight=table.vector(mixer + "norm.weight", shape.channels),
            norm_eps=config.norm_eps,
        )
        matrices = [
            self._matrix(mixer + "in_proj", (shape.in_features, config.hidden_size), bias=config.use_bias),
            self._matrix(mixer + "out_proj", (config.hidden_size, shape.channels), bias=config.use_bias),
        ]
        return {
            planes: SSMLayer(self._ctx, shape, weights, *(self._linear(*matrix, planes) for matrix in matrices))
            for planes in ("all", "prefix")
        }

    def _matrix(self, name: str, shape: tuple[int, int], *, bias: bool) -> tuple[int, NDArray[np.float32] | None]:
        handle = self._table.matrix(name + ".weight", shape)
        self.sweep.append(handle)
        return handle, self._table.vector(name + ".bias", shape[0]) if bias else None

    def _linear(self, handle: int, bias: NDArray[np.float32] | None, planes: Planes) -> PagedLinear:
        return PagedLinear(self._ctx, self._pager, [handle], [bias], self._activations, planes)

    def _conv_weight(self, mixer: str, channels: int) -> NDArray[np.float32]:
        return self._table.finite(mixer + "conv1d.weight", (channels, 1, self._config.conv_width))[:, 0]

    def _conv_bias(self, mixer: str, channels: int) -> NDArray[np.float32] | None:
        return self._table.finite(mixer + "conv1d.bias", (channels,)) if self._config.use_conv_bias else None

    def _rates(self, mixer: str, shape: Sequence[int]) -> NDArray[np.float32]:
        # In float64, rounded once: the bits are those of every machine.
        logs = self._table.finite(mixer + "A_log", tuple(shape)).astype(np.float64)
        return (-np.exp(logs)).astype(np.float32)
