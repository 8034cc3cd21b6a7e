"""The decoder of the llama family: llama, mistral, qwen2, qwen3, wired from one configuration.

h = embed(ids); per layer h += attention(norm(h)), h += mlp(norm(h)); logits = head(norm(h)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.layers import PagedLinear, RMSNorm
from vortex_engine.models.config import DecoderConfig, parse_config
from vortex_engine.models.draft_head import drafts_with_whole_head
from vortex_engine.models.effort import FULL, Effort
from vortex_engine.models.multi_token import multi_token_heads
from vortex_engine.models.rope import inverse_frequencies
from vortex_engine.models.tensors import TensorTable
from vortex_engine.state import HiddenRows, KVState, SequenceState, hidden_rows

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory
    from vortex_engine.ops import OpContext

__all__ = ["MAX_SIBLINGS", "Decoder", "build", "parse_config"]

MAX_SIBLINGS = 16  # of one sweep: positions that a cache has besides its capacity

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


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
        vocab_shape = (config.vocab_size, config.hidden_size)
        self._embedding = wiring.table.matrix(_EMBEDDING, vocab_shape)
        layers = [wiring.layer(i) for i in range(config.num_hidden_layers)]
        self._norm = RMSNorm(ctx, wiring.table.vector("model.norm.weight", config.hidden_size), config.rms_norm_eps)
        if config.tie_word_embeddings:
            wiring.sweep.append(self._embedding)
            head = ops.Projections((self._embedding,), (None,))
        else:
            head = wiring.projections([("lm_head", config.vocab_size)], config.hidden_size, bias=False)
        whole_head = drafts_with_whole_head(directory, _EMBEDDING if config.tie_word_embeddings else _HEAD)
        self.drafted = head.handles if whole_head else ()
        self._planes = {
            "all": _Planes(layers, self._linear(head, activations, "all")),
            "prefix": _Planes(
                [replace(layer, planes="prefix") for layer in layers],
                self._linear(head, activations, "resident" if self.drafted else "prefix"),
            ),
        }
        output = {planes: parts.head for planes, parts in self._planes.items()}
        self.multi_token = multi_token_heads(ctx, pager, wiring.table, config, output, activations)
        self.sweep = tuple(wiring.sweep)
        self.has_residuals = any(bool(matrix.tiles.residual_bytes.any()) for matrix in directory.matrices.values())
        self.unused_tensors = wiring.table.unused(tied_head=_HEAD if config.tie_word_embeddings else None)

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
        planes = self._planes[effort.planes]
        positions = np.arange(start, start + n_rows, dtype=np.int64)
        if depths is not None:
            positions = np.concatenate((positions, start + depths))
        rotation = ops.rope_table(self._ctx, positions, self._inv_freq)
        h = ops.embed_rows(self._ctx, self._pager, self._embedding, token_ids, effort.planes)
        for layer, cache in zip(planes.layers[: effort.n_layers], state.kv.layers, strict=False):
            ops.decoder_layer(self._ctx, self._pager, layer, h, rotation, cache, start, depths)
        state.kv.length = start + n_rows
        rows = {"all": h, "last": h[-1:], "none": h[:0]}[logits]
        normed = self._norm(rows) if len(rows) else rows
        if kept := hidden_rows(state):
            kept.append(n_rows, normed if effort == FULL else None, 0 if depths is None else len(depths))
        return planes.head(normed)[0] if len(rows) else np.empty((0, self.config.vocab_size), np.float32)

    def adopt(self, state: SequenceState, slot: int) -> None:
        """As `LanguageModel.adopt`."""
        for keys, values in state.kv.layers:
            ops.kv_move(self._ctx, keys, values, slot, state.length)
        state.kv.length += 1
        if kept := hidden_rows(state):
            kept.adopt(slot)

    def _linear(self, rows: ops.Projections, activations: str, planes: str) -> PagedLinear:
        return PagedLinear(self._ctx, self._pager, rows.handles, rows.biases, activations, planes)


@dataclass(frozen=True)
class _Planes:
    """The parts that read weights, for one choice of planes."""

    layers: list[ops.DecoderLayer]
    head: PagedLinear


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
