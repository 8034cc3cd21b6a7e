"""The VORTEX model: local mixer, recurrence, memory and MLP in every layer, each where the configuration has it.

h = embed(ids); per layer x = norm(h), y = conv(x), h += y + attention(x + y); h += ssm(norm(h)); h += lava(norm(h));
h += mlp(norm(h)); logits = head(norm(h)). What a sequence carries does not grow with it once its memories are full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.models.effort import FULL, Effort
from vortex_engine.models.ends import Ends
from vortex_engine.models.multi_token import multi_token_heads
from vortex_engine.models.tensors import TensorTable
from vortex_engine.models.vortex_config import VortexConfig, parse_config
from vortex_engine.models.vortex_layer import Planes, VortexWiring
from vortex_engine.state import (
    GateState,
    HiddenRows,
    KVState,
    LavaState,
    RecurrentState,
    SequenceState,
    StatePart,
    WindowState,
    find_part,
    recurrent_layers,
)

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory
    from vortex_engine.ops import OpContext

__all__ = ["Vortex", "build", "parse_config"]


def build(directory: C3Directory, pager: Any, handles: dict[str, int], ctx: OpContext, activations: str) -> Vortex:
    """The model of a packed directory; the pager has its matrices under `handles` and is not started."""
    return Vortex(parse_config(directory.config), directory, pager, handles, ctx, activations)


class Vortex:
    """A `LanguageModel` of constant memory."""

    def __init__(
        self,
        config: VortexConfig,
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
        wiring = VortexWiring(config, table, ctx, pager, activations)
        self._ends = Ends(ctx, pager, directory, table, config, activations, eps=config.rms_norm_eps)
        self._layers = [wiring.layer(i) for i in range(config.num_hidden_layers)]
        self.sweep = (*wiring.sweep, self._ends.head)
        self.drafted, self.has_residuals = self._ends.drafted, self._ends.has_residuals
        self.multi_token = multi_token_heads(ctx, pager, table, config, self._ends.output, activations)
        self.unused_tensors = table.unused(tied_head=self._ends.tied_head)

    def new_state(self, capacity: int) -> SequenceState:
        """An empty sequence with room for `capacity` positions, none of which takes any memory."""
        config, layers = self.config, [layer["all"] for layer in self._layers]
        memories = [one.new_memory() for layer in layers for one in (layer.conv, layer.ssm) if one is not None]
        parts: list[StatePart] = [RecurrentState(memories)]
        if config.attention is not None:
            parts.append(WindowState([layer.attention.new_memory() for layer in layers if layer.attention is not None]))
        if config.lava is not None:
            banks = [layer.lava.new_bank() for layer in layers if layer.lava is not None]
            parts.append(LavaState(self._ctx, banks, config.lava.write_every, config.lava.write_on_surprise))
        if config.depth_gating is not None:
            parts.append(GateState())
        if self.multi_token:
            parts.append(HiddenRows(config.hidden_size))
        return SequenceState(KVState(0, 1, 1, capacity), parts)

    def activation_bytes_per_row(self) -> int:
        """An estimate of the temporaries that each row of a forward pass needs."""
        config = self.config
        widths = [config.hidden_size, 3 * config.intermediate_size]
        if config.attention is not None:
            heads = config.attention.n_heads + config.attention.n_kv_heads
            widths.append(2 * heads * config.attention.head_dim)
        if config.ssm is not None:
            widths.append(2 * config.ssm.in_features + 3 * config.ssm.channels)
        if config.lava is not None:
            widths.append(2 * config.lava.n_heads * (config.lava.key_dim + config.lava.value_dim))
        with_logits = config.lava is not None and config.lava.write_on_surprise > 0
        return 4 * (2 * config.hidden_size + max(widths) + (config.vocab_size if with_logits else 0))

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
        lava = find_part(state, LavaState)
        if lava is None or lava.surprises is None:
            return self._pass(token_ids, state, logits, effort)
        outs: list[NDArray[np.float32]] = []
        mark, start = state.snapshot(), 0
        try:
            while start < len(token_ids):
                # The surprise of a row is known after its pass, and must be known before its window enters a bank, with
                # the first row of the window after the next: there a pass ends.
                end = start + 2 * LavaState.WINDOW - lava.length % LavaState.WINDOW
                found = self._pass(token_ids[start:end], state, "all", effort)
                outs.append({"all": found, "last": found[-1:], "none": found[:0]}[logits])
                start = end
        except BaseException:
            state.rollback(mark)
            raise
        state.commit(mark, len(token_ids))
        return outs[-1] if logits == "last" else np.concatenate(outs)

    def adopt(self, state: SequenceState, slot: int) -> None:
        """Never called: there are no siblings."""
        raise ValueError(f"[adopt] slot must be that of a sibling, and a recurrent model has none, got {slot}")

    def _pass(
        self,
        token_ids: NDArray[np.int64],
        state: SequenceState,
        logits: Literal["last", "all", "none"],
        effort: Effort,
    ) -> NDArray[np.float32]:
        recurrent, window, lava = recurrent_layers(state), find_part(state, WindowState), find_part(state, LavaState)
        h = self._ends.embed(token_ids, effort.planes)
        gating, deep = self.config.depth_gating, None
        for index, layer in enumerate(self._layers[: effort.n_layers]):
            if gating is not None and index == gating.min_layers:
                deep = self._deep(h, state, effort.planes)
            layer[effort.planes].mix(h, recurrent, window, lava)
            if gating is None or index < gating.min_layers:
                layer[effort.planes].feed(h)
            elif index < gating.max_layers:
                layer[effort.planes].feed(h, deep)
        normed = self._ends.normed(h, logits)
        found = self._ends.logits(normed, effort.planes)
        if lava is not None:
            lava.record(token_ids, found)
        for part in state.parts:
            if isinstance(part, HiddenRows):
                part.append(len(token_ids), normed if effort == FULL else None)
            elif isinstance(part, RecurrentState | WindowState | LavaState | GateState):
                part.end(len(token_ids))
        state.kv.length += len(token_ids)
        return found

    def _deep(self, h: NDArray[np.float32], state: SequenceState, planes: Planes) -> NDArray[np.bool_]:
        """Which rows go on through the MLPs of deeper layers, [T], by what the head makes of them as they are."""
        gating, gate = self.config.depth_gating, find_part(state, GateState)
        assert gating is not None and gate is not None
        uncertainty = ops.entropies(self._ctx, self._ends.logits(self._ends.normed(h), planes))
        return ~gate.decide(uncertainty, gating.entropy, gating.entropy + gating.hysteresis)
