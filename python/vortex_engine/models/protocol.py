"""What the engine needs of a model, whatever its layers are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vortex_engine.models.effort import FULL, Effort

if TYPE_CHECKING:
    from vortex_engine.models.multi_token import MultiTokenHeads
    from vortex_engine.state import SequenceState

__all__ = ["LanguageModel", "ModelConfig"]


class ModelConfig(Protocol):
    """The sizes of a model that its users ask for."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int:
        """The most positions of a sequence."""
        ...


class LanguageModel(Protocol):
    """A model over a pager; the sequence's state is an argument, so one model serves many sequences in turn.

    `sweep` is the order of its matrices in a forward pass, `drafted` those of which drafts want more than the prefix,
    `unused_tensors` what the checkpoint has besides; `has_residuals` says whether the prefixes of its tiles are less
    than the whole; `multi_token` has the heads for later tokens, or is None.
    """

    sweep: tuple[int, ...]
    drafted: tuple[int, ...]
    unused_tensors: tuple[str, ...]
    has_residuals: bool
    multi_token: MultiTokenHeads | None

    @property
    def config(self) -> ModelConfig: ...

    def new_state(self, capacity: int) -> SequenceState:
        """An empty sequence with room for `capacity` positions."""
        ...

    def activation_bytes_per_row(self) -> int:
        """An estimate of the temporaries that each row of a forward pass needs."""
        ...

    def forward(
        self,
        token_ids: NDArray[np.int64],
        state: SequenceState,
        logits: Literal["last", "all", "none"] = "last",
        effort: Effort = FULL,
        depths: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]:
        """One sweep: append the ids to the sequence in `state`.

        Less than full effort leaves a state that only another draft may see: roll back to before it.

        Args:
            depths: the last ids are siblings, which stand beside the chain of the others: sibling s in place of the
                chain's id number depths[s], counted from 0. The sequence grows by the chain; `adopt` has the rest.

        Returns:
            float32 logits [1, vocab] of the last id, [T, vocab] of all, or [0, vocab].
        """
        ...

    def adopt(self, state: SequenceState, slot: int) -> None:
        """Append a sibling of the sweep before, whose chain has just been committed up to the sibling's place.

        Args:
            slot: where that sweep put the sibling: the position it began at + ids of its chain + the sibling's number.
        """
        ...
