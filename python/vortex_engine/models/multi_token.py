"""Multi-token heads: from the state that gave the next token, the tokens after it (Medusa-1).

h_i = h + silu(W_i h), logits_i = head(h_i), with h the final normalised state and the model's own output matrix: head i
reads the token i + 2 places after the one that h was computed from. Source: arXiv 2401.10774, section 2.1.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.layers import PagedLinear

if TYPE_CHECKING:
    from vortex_engine.models.config import DecoderConfig
    from vortex_engine.models.tensors import TensorTable
    from vortex_engine.models.vortex_config import VortexConfig
    from vortex_engine.ops import OpContext

__all__ = ["MTP_PREFIX", "MultiTokenHeads", "multi_token_heads"]

MTP_PREFIX = "mtp."


class MultiTokenHeads:
    """The `k` heads of a model. No sweep has their matrices, so the pager treats them as looked up at random.

    Args:
        matrices: of all heads, by the planes they are read from.
        output: the model's output matrix, by planes.
    """

    def __init__(
        self, ctx: OpContext, k: int, matrices: Mapping[str, PagedLinear], output: Mapping[str, PagedLinear]
    ) -> None:
        self.k = k
        self._ctx = ctx
        self._matrices = matrices
        self._output = output

    def logits(self, h: NDArray[np.float32], planes: Literal["all", "prefix"] = "all") -> NDArray[np.float32]:
        """Logits [k, vocab] float32 of all heads.

        Args:
            h: final normalised state [1, hidden] float32 of one position.
            planes: "prefix" reads the weights from the prefix planes of `exact` tiles alone.
        """
        gates = np.concatenate(self._matrices[planes](h))  # [k, hidden]
        # swiglu(x, 1) is silu(x).
        states = h + ops.swiglu(self._ctx, gates, np.ones_like(gates))
        return self._output[planes](states)[0]


def multi_token_heads(
    ctx: OpContext,
    pager: Any,
    table: TensorTable,
    config: DecoderConfig | VortexConfig,
    output: Mapping[str, PagedLinear],
    activations: str,
) -> MultiTokenHeads | None:
    """The heads `mtp.{i}.weight` [hidden, hidden] that a configuration promises with `mtp_k`; None without.

    Raises:
        ModelConfigError: one of them is missing or has another shape.
    """
    if not config.mtp_k:
        return None
    shape = (config.hidden_size, config.hidden_size)
    handles = [table.matrix(f"{MTP_PREFIX}{i}.weight", shape) for i in range(config.mtp_k)]
    none = [None] * config.mtp_k
    matrices = {planes: PagedLinear(ctx, pager, handles, none, activations, planes) for planes in output}
    return MultiTokenHeads(ctx, config.mtp_k, matrices, output)
