"""The decoder of the llama family: llama, mistral, qwen2, qwen3, wired from one configuration.

h = embed(ids); per layer h += attention(norm(h)), h += mlp(norm(h)); logits = head(norm(h)).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.models.config import DecoderConfig, parse_config
from vortex_engine.models.effort import FULL, Effort
from vortex_engine.models.ends import Ends
from vortex_engine.models.multi_token import multi_token_heads
from vortex_engine.models.rope import inverse_frequencies
from vortex_engine.models.tensors import TensorTable
from vortex_engine.state import HiddenRows, KVState, SequenceState, hidden_rows

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory
    from vortex_engine.ops import OpContext

__all__ = ["MAX_SIBLINGS", "Decoder", "build", "parse_config"]

MAX_SIBLINGS = 16  # of one sweep: positions that a cache has besides its capacity


def build(directory: C3Directory, pager: Any, handles: dict[str, int], ctx: OpContext, activations: str) -> Decoder:
    """The model of a packed directory; the pager has its matrices under `handles` and is not started."""
    return Decoder(parse_config(directory.config), directory, pager, handles, ctx, activations)


class Decoder:
    """A `LanguageModel` of attention and gated MLP."""

    def __init__(
        self,
        config: DecoderConfig,
        directory: C3Directory,
        pager: Any,
        handles: dict[str, int],
        ctx: OpContext,
        activations: str,
    ) -> None:
        self.config = config
        self._ctx = ctx
        self._pager = pager
        self._inv_freq = inverse_frequencies(config.rope, config.head_dim)
        wiring = _Wiring(config, TensorTable(directory, handles), activations)
        self._ends = Ends(ctx, pager, directory, wiring.table, config, activations, eps=config.rms_norm_eps)
        layers = [wiring.layer(i) for i in range(config.num_hidden_layers)]
        self._layers = {"all": layers, "prefix": [replace(layer, planes="prefix") for layer in layers]}
        self.sweep = (*wiring.sweep, self._ends.head)
        self.drafted, self.has_residuals = self._ends.drafted, self._ends.has_residuals
        self.multi_token = multi_token_heads(ctx, pager, wiring.table, config, self._ends.output, activations)
        self.unused_tensors = wiring.table.unused(tied_head=self._ends.tied_head)

    def new_state(self, capacity: int) -> SequenceState:
        """An empty sequence with room for `capacity` positions."""
        config = self.config
        kv = KVState(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, capacity, MAX_SIBLINGS)
        return SequenceState(kv, [HiddenRows(config.hidden_size)] if self.multi_token else [])

    def activation_bytes_per_row(self) -> int:
        """An estimate of the temporaries that each row of a forward pass needs."""
        config = self.config
        heads = (config.num_attention_heads + config.num_key_value_heads) * config.head_dim
        return 4 * (3 * config.hidden_size + 2 * heads + 3 * config.intermediate_size)

    def forward(
        self,
        token_ids: NDArray[np.int64],
        state: SequenceState,
        logits: Literal["last", "all", "none"] = "last",
        effort: Effort = FULL,
        depths: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """As `LanguageModel.forward`."""
        start, n_rows = state.length, token_ids.shape[0] - (0 if depths is None else len(depths))
        positions = np.arange(start, start + n_rows, dtype=np.int64)
        if depths is not None:
            positions = np.concatenate((positions, start + depths))
        rotation = ops.rope_table(self._ctx, positions, self._inv_freq)
        h = self._ends.embed(token_ids, effort.planes)
        for layer, cache in zip(self._layers[effort.planes][: effort.n_layers], state.kv.layers, strict=False):
            ops.decoder_layer(self._ctx, self._pager, layer, h, rotation, cache, start, depths)
        state.kv.length = start + n_rows
        normed = self._ends.normed(h, logits)
        if kept := hidden_rows(state):
            kept.append(n_rows, normed if effort == FULL else None, 0 if depths is None else len(depths))
        return self._ends.logits(normed, effort.planes)

    def adopt(self, state: SequenceState, slot: int) -> None:
        """As `LanguageModel.adopt`."""
        for keys, values in state.kv.layers:
            ops.kv_move(self._ctx, keys, values, slot, state.length)
        state.kv.length += 1
        if kept := hidden_rows(state):
            kept.adopt(slot)


class _Wiring:
    """Names the parts in forward order, so that the order of their matrices is the sweep."""

    def __init__(self, config: DecoderConfig, table: TensorTable, activations: str) -> None:
        self.config = config
        self.table = table
        self.sweep: list[int] = []
        self._activations = activations

    def layer(self, index: int) -> ops.DecoderLayer:
        config = self.config
        prefix = f"model.layers.{index}."
        hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
        q_rows, kv_rows = config.num_attention_heads * dim, config.num_key_value_heads * dim
        attn, mlp = prefix + "self_attn.", prefix + "mlp."
        return ops.DecoderLayer(
            attention_norm=self.table.vector(prefix + "input_layernorm.weight", hidden),
            mlp_norm=self.table.vector(prefix + "post_attention_layernorm.weight", hidden),
            eps=config.rms_norm_eps,
            qkv=self.projections(
                [(attn + "q_proj", q_rows), (attn + "k_proj", kv_rows), (attn + "v_proj", kv_rows)],
                hidden,
                bias=config.qkv_bias,
            ),
            o=self.projections([(attn + "o_proj", hidden)], q_rows, bias=config.o_bias),
            gate_up=self.projections(
                [(mlp + "gate_proj", inner), (mlp + "up_proj", inner)], hidden, bias=config.mlp_bias
            ),
            down=self.projections([(mlp + "down_proj", hidden)], inner, bias=config.mlp_bias),
            qk_norms=(self.table.vector(attn + "q_norm.weight", dim), self.table.vector(attn + "k_norm.weight", dim))
            if config.qk_norm
            else None,
            n_heads=config.num_attention_heads,
            n_kv_heads=config.num_key_value_heads,
            head_dim=dim,
            window=config.windows[index],
            # The rotation would scale q and k by the factor each; a score then has it twice.
            scale=dim**-0.5 * config.rope.attention_factor**2,
            activations=self._activations,
        )

    def projections(self, parts: list[tuple[str, int]], in_features: int, *, bias: bool) -> ops.Projections:
        handles = [self.table.matrix(name + ".weight", (rows, in_features)) for name, rows in parts]
        biases = [self.table.vector(name + ".bias", rows) if bias else None for name, rows in parts]
        self.sweep.extend(handles)
        return ops.Projections(tuple(handles), tuple(biases))
