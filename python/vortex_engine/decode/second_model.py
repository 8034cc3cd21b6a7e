"""The second model of a loaded one: smaller, in RAM as a whole, and only there to draft."""

from __future__ import annotations

import os
import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vortex_engine.c3.directory import open_directory
from vortex_engine.decode.load import LoadedParts, load_parts, model_path
from vortex_engine.errors import BudgetError, VortexError
from vortex_engine.profile import parse_bytes
from vortex_engine.state import SequenceState
from vortex_engine.tok import Tokenizer, load_tokenizer

__all__ = ["SecondModel", "budget_beside", "load_second_model"]


def budget_beside(path: str | os.PathLike[str], ram_budget: int | str) -> int:
    """Bytes of a budget that are left for the first model, all weights of the second being in RAM.

    Raises:
        BudgetError: nothing is left.
    """
    budget_bytes, second_bytes = parse_bytes(ram_budget, "ram_budget"), _all_weights_bytes(path)
    if second_bytes >= budget_bytes:
        raise BudgetError(
            f"draft_model {path} takes {second_bytes} bytes of a ram_budget of {budget_bytes}; give more, or draft "
            "without it: speculate='prefix' needs no second model"
        )
    return budget_bytes - second_bytes


def _all_weights_bytes(path: str | os.PathLike[str]) -> int:
    return open_directory(model_path(path)).compressed_bytes


def load_second_model(path: str | os.PathLike[str], threads: int | None) -> SecondModel:
    """Open a packed model to draft with.

    Raises: as `load`.
    """
    parts = load_parts(
        path,
        device="cpu",
        ram_budget=_all_weights_bytes(path),
        vram_budget=None,
        threads=threads,
        profile=None,
        prefill_chunk=None,
        policy="stable",
        activations=None,
    )
    try:
        return SecondModel(parts, load_tokenizer(parts.directory.path))
    except BaseException:
        parts.pager.close()
        raise


class SecondModel:
    """A decoder with its tokenizer; one sweep at a time, from any thread."""

    def __init__(self, parts: LoadedParts, tokenizer: Tokenizer) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._closed = False
        self.tokenizer = tokenizer

    @property
    def tokenizer_bytes(self) -> bytes:
        """Of its tokenizer.json."""
        path = self._parts.directory.tokenizer_path
        return b"" if path is None else path.read_bytes()

    @property
    def context_length(self) -> int:
        """The most tokens of a sequence."""
        return self._parts.decoder.config.max_position_embeddings

    @property
    def prefill_chunk(self) -> int:
        """Tokens of a sweep over a prompt."""
        return self._parts.prefill_chunk

    def new_state(self, capacity: int) -> SequenceState:
        """As `LanguageModel.new_state`."""
        return self._parts.decoder.new_state(capacity)

    def sweep(
        self, token_ids: NDArray[np.int64], state: SequenceState, logits: Literal["last", "none"]
    ) -> NDArray[np.float32]:
        """As `LanguageModel.forward`."""
        with self._lock:
            if self._closed:
                raise VortexError("the model is closed; load it again")
            return self._parts.decoder.forward(token_ids, state, logits)

    def close(self) -> None:
        """Free its weights."""
        with self._lock:
            self._closed = True
            self._parts.pager.close()
