"""One generation: a sequence's state with its sampler, drafters and planner, and the blocks they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vortex_engine.decode.engine import LogitsFn, Timing, VerifiedBlock, generate_blocks, prefill
from vortex_engine.decode.sampler import Sampler
from vortex_engine.decode.speculation import DraftSource, make_drafters, make_planner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vortex_engine.decode.constraints import Constraint
    from vortex_engine.decode.cost import CostModel
    from vortex_engine.decode.drafters.mtp import HeadsFn
    from vortex_engine.decode.load import LoadedParts
    from vortex_engine.decode.options import GenerationOptions
    from vortex_engine.decode.sampling import SamplingParams
    from vortex_engine.decode.second_model import SecondModel
    from vortex_engine.grams import GramTable
    from vortex_engine.models.effort import Effort
    from vortex_engine.state import SequenceState
    from vortex_engine.tok import Tokenizer

__all__ = ["Generation", "Loaded"]


@dataclass(frozen=True)
class Loaded:
    """What every generation of one model shares."""

    parts: LoadedParts
    forward: LogitsFn
    tokenizer: Tokenizer
    costs: CostModel
    second: SecondModel | None
    tables: tuple[GramTable, ...]
    heads: HeadsFn


class Generation:
    """Tokens after one prompt; `blocks` is run through once, as far as the consumer wants.

    Attributes:
        state: of the sequence; between blocks it holds verified positions alone.
        planner: with the counts of what was drafted.
    """

    def __init__(
        self,
        loaded: Loaded,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        options: GenerationOptions,
        n_allowed: int,
        constraint: Constraint | None = None,
    ) -> None:
        parts = loaded.parts
        self._loaded = loaded
        self._prompt_ids = prompt_ids
        self.timing = Timing()
        self.state = parts.decoder.new_state(len(prompt_ids) + n_allowed)
        vocab_size = parts.decoder.config.vocab_size
        self._sampler = Sampler(parts.ctx, params, prompt_ids, vocab_size, constraint, options.entropy_top_k)
        source = DraftSource(
            parts=parts,
            sweep=self._draft_sweep,
            state=self.state,
            sampler=self._sampler,
            options=options,
            tokenizer=loaded.tokenizer,
            second=loaded.second,
            tables=loaded.tables,
            heads=loaded.heads,
        )
        self._drafters = make_drafters(source)
        self.planner = make_planner(self._drafters, loaded.costs, options, self.state)

    def blocks(self) -> Iterator[VerifiedBlock]:
        """The prompt's sweeps, then blocks of tokens until the state is full."""
        forward, ids, state = self._loaded.forward, self._prompt_ids, self.state
        logits = prefill(forward, ids, state, self._loaded.parts.prefill_chunk, self.timing)
        yield from generate_blocks(
            forward,
            self._loaded.parts.decoder.adopt,
            ids,
            logits,
            state,
            self._sampler,
            self._drafters,
            self.planner,
            self.timing,
        )

    def _draft_sweep(self, token_ids: NDArray[np.int64], state: SequenceState, effort: Effort) -> NDArray[np.float32]:
        return self._loaded.forward(token_ids, state, "last", effort)
