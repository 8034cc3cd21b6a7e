"""What every language model has around its layers: the embedding, the final norm and the output head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.layers import PagedLinear, RMSNorm
from vortex_engine.models.draft_head import drafts_with_whole_head

if TYPE_CHECKING:
    from vortex_engine.c3.directory import C3Directory
    from vortex_engine.models.config import DecoderConfig
    from vortex_engine.models.mamba_config import MambaConfig
    from vortex_engine.models.tensors import TensorTable
    from vortex_engine.models.vortex_config import VortexConfig
    from vortex_engine.ops import OpContext

__all__ = ["Ends"]

Floats = NDArray[np.float32]
Planes = Literal["all", "prefix"]

_HEAD = "lm_head.weight"


class Ends:
    """Ids to states before the layers, and states after them to logits.

    Attributes:
        head: handle of the output matrix, which ends the sweep; that of the embedding where they are tied.
        drafted: as `LanguageModel.drafted`.
        output: the output matrix, by the planes it is read from.
        has_residuals: as `LanguageModel.has_residuals`.
        tied_head: name of a tensor that may be there beside the embedding it equals.
    """

    def __init__(
        self,
        ctx: OpContext,
        pager: Any,
        directory: C3Directory,
        table: TensorTable,
        config: DecoderConfig | MambaConfig | VortexConfig,
        activations: str,
        *,
        eps: float,
        embedding: str = "model.embed_tokens.weight",
        norm: str = "model.norm.weight",
    ) -> None:
        self._ctx = ctx
        self._pager = pager
        self._vocab_size = config.vocab_size
        shape = (config.vocab_size, config.hidden_size)
        self._embedding = table.matrix(embedding, shape)
        self._norm = RMSNorm(ctx, table.vector(norm, config.hidden_size), eps)
        tied = config.tie_word_embeddings
        self.head = self._embedding if tied else table.matrix(_HEAD, shape)
        self.tied_head = _HEAD if tied else None
        self.drafted = (self.head,) if drafts_with_whole_head(directory, embedding if tied else _HEAD) else ()
        self.output: dict[str, PagedLinear] = {
            "all": PagedLinear(ctx, pager, [self.head], [None], activations),
            "prefix": PagedLinear(
                ctx, pager, [self.head], [None], activations, "resident" if self.drafted else "prefix"
            ),
        }
        self.has_residuals = any(bool(matrix.tiles.residual_bytes.any()) for matrix in directory.matrices.values())

    def embed(self, token_ids: NDArray[np.int64], planes: Planes) -> Floats:
        """States [T, hidden] of ids [T]."""
        return ops.embed_rows(self._ctx, self._pager, self._embedding, token_ids, planes)

    def normed(self, h: Floats, rows: Literal["last", "all", "none"] = "all") -> Floats:
        """Final normalised states of these rows of [T, hidden]."""
        chosen = {"all": h, "last": h[-1:], "none": h[:0]}[rows]
        return self._norm(chosen) if len(chosen) else chosen

    def logits(self, normed: Floats, planes: Planes) -> Floats:
        """Logits [R, vocab] of final states [R, hidden]."""
        return self.output[planes](normed)[0] if len(normed) else np.empty((0, self._vocab_size), np.float32)
