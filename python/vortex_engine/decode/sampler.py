"""One sequence's choice of tokens, drafted or not: processors over its history, then the law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vortex_engine import ops
from vortex_engine.decode.constraints import Constraint
from vortex_engine.decode.history import History
from vortex_engine.decode.processors import make_processors
from vortex_engine.decode.sampling import SamplingParams
from vortex_engine.errors import VortexError

__all__ = ["Sampler"]

_BLOCK = 64  # ids a block maximum stands for in the search for the largest
_NO_DRAFT = np.empty(0, np.int64)
_NO_CONFIDENCE = math.ulp(0.0)


class Sampler:
    """Verifies drafts against logits, and drafts with the same noise.

    The next token stands at position `len(sampler)`; a token depends on its row of logits, the ids before it, the
    parameters and its position, never on how it was drafted.

    Args:
        ctx: what `ops.bad_verify` runs on.
        params: the law and the processors.
        prompt_ids: the sequence so far.
        vocab_size: V, logits a row.
        constraint: which ids may follow, or None.
        entropy_top_k: how many of the largest logits the confidence of a draft looks at.
    """

    def __init__(
        self,
        ctx: ops.OpContext,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        vocab_size: int,
        constraint: Constraint | None = None,
        entropy_top_k: int = 64,
    ) -> None:
        if entropy_top_k < 1:
            raise ValueError(f"entropy_top_k must be an integer of at least 1, got {entropy_top_k!r}")
        self._ctx = ctx
        self._seed = int(params.seed)
        self._params = params
        self._processors = make_processors(params)
        self._constraint = constraint
        self._entropy_top_k = entropy_top_k
        self._length = len(prompt_ids)
        self._history: History | None = None
        if self._processors:
            self._history = History(
                prompt_ids, vocab_size, penalty_window=params.penalty_window, ngram=params.no_repeat_ngram
            )
        # The constraint's states after the sequence and after each pending id.
        self._states: list[Any] = [] if constraint is None else [constraint.start(prompt_ids)]

    def __len__(self) -> int:
        """Number of ids in the sequence."""
        return self._length

    def verify(self, draft_ids: Sequence[int] | NDArray[np.int64], logits: NDArray[np.float32]) -> tuple[int, int]:
        """How many drafted ids the sequence takes, and the token after them; the history stays as it is.

        Args:
            draft_ids: k ids that may follow.
            logits: float32 [k + 1, V], not changed; row i follows the first i drafted ids.

        Raises:
            VortexError: a row that counts is not finite, or every id is forbidden.
        """
        draft = np.ascontiguousarray(draft_ids, dtype=np.int64)
        if not self._processors and self._constraint is None:
            return ops.bad_verify(self._ctx, draft, logits, self._params, self._seed, self._length)
        if len(logits) != len(draft) + 1:
            raise ValueError(
                f"[verify] logits must have one row more than the {len(draft)} drafted ids, got {len(logits)}"
            )
        # Rows are processed only as far as the draft holds: after a rejection no history exists for them.
        n_accepted = 0
        try:
            while True:
                token_id = self._choose(self._processed(logits[n_accepted], n_accepted), n_accepted)
                if n_accepted == len(draft) or token_id != draft[n_accepted]:
                    return n_accepted, token_id
                self._assume(token_id)
                n_accepted += 1
        finally:
            self._forget(n_accepted)

    def push(self, token_ids: Sequence[int]) -> None:
        """These ids now belong to the sequence."""
        for token_id in token_ids:
            self._assume(int(token_id))
        self._length += len(token_ids)
        del self._states[:-1]

    def draft(self, logits: NDArray[np.float32], pending: Sequence[int]) -> tuple[int, float]:
        """What would be chosen from these logits after some pending ids, and how sure the logits are.

        Args:
            logits: float32 [V], not changed.
            pending: ids that are assumed to follow the sequence.

        Returns:
            (id, confidence): the id's probability among the `entropy_top_k` largest processed logits at temperature 1,
            in (0, 1]. Where verification would raise, (0, the smallest positive number): a draft's logits are
            approximate, and its pending ids may be ones that are forbidden, so they never end a generation.
        """
        n_assumed = 0
        try:
            row = logits
            if self._processors or self._constraint is not None:
                for pending_id in pending:
                    self._assume(int(pending_id))
                    n_assumed += 1
                row = self._processed(logits, len(pending))
            token_id = self._choose(row, len(pending))
        except VortexError:
            return 0, _NO_CONFIDENCE
        finally:
            self._forget(n_assumed)
        return token_id, _confidence(row, token_id, self._entropy_top_k)

    def others(
        self, logits: NDArray[np.float32], pending: Sequence[int], first_id: int, n: int
    ) -> list[tuple[int, float]]:
        """What would be chosen in place of `first_id`, then in place of that too, and so on.

        Args:
            logits, pending: as of `draft`, which chose `first_id`.
            n: the most ids.

        Returns:
            (id, confidence): as of `draft`, given that `first_id` is wrong. Fewer where no other id is possible.
        """
        n_assumed, left, token_id = 0, 1.0, first_id
        found: list[tuple[int, float]] = []
        try:
            for pending_id in pending:
                self._assume(int(pending_id))
                n_assumed += 1
            row = self._processed(logits, len(pending)).copy()
            for _ in range(n):
                row[token_id] = -np.inf
                if row.max() == -np.inf:
                    break
                token_id = self._choose(row, len(pending))
                confidence = _confidence(row, token_id, self._entropy_top_k)
                found.append((token_id, max(left * confidence, _NO_CONFIDENCE)))
                left *= 1 - confidence
        except VortexError:
            return found
        finally:
            self._forget(n_assumed)
        return found

    def _choose(self, row: NDArray[np.float32], n_after: int) -> int:
        return ops.bad_verify(self._ctx, _NO_DRAFT, row[None], self._params, self._seed, self._length + n_after)[1]

    def _assume(self, token_id: int) -> None:
        if self._history is not None:
            self._history.push(token_id)
        if self._constraint is not None:
            self._states.append(self._constraint.after(self._states[-1], token_id))

    def _forget(self, n_ids: int) -> None:
        for _ in range(n_ids):
            if self._history is not None:
                self._history.pop()
            if self._constraint is not None:
                self._states.pop()

    def _processed(self, logits: NDArray[np.float32], n_after: int) -> NDArray[np.float32]:
        """The row after processors and constraint; itself where they leave it alone."""
        allowed = None if self._constraint is None else self._constraint.allowed(self._states[-1])
        if self._history is None and allowed is None:
            return logits
        row = logits.copy()
        if self._history is not None:
            for processor in self._processors:
                processor.apply(row, self._history)
            if self._params.no_repeat_ngram is not None and row.max() == -np.inf < logits.max():
                raise VortexError(
                    f"no_repeat_ngram={self._params.no_repeat_ngram} forbids every id at position "
                    f"{self._length + n_after}; raise it or leave it out"
                )
        if self._constraint is not None and allowed is not None:
            was_possible = row.max() > -np.inf
            row[~allowed] = -np.inf
            if was_possible and row.max() == -np.inf:
                raise VortexError(
                    f"{self._constraint.name} forbids every id at position {self._length + n_after} that the logits "
                    "allow; leave it out, or leave no_repeat_ngram out where that is on"
                )
        return row


def _confidence(row: NDArray[np.float32], token_id: int, k: int) -> float:
    """softmax(row)[token_id] over the k largest and itself."""
    largest = _largest(row, k).astype(np.float64)
    distances = largest - float(row[token_id])
    if float(row[token_id]) < largest.min():
        distances = np.append(distances, 0.0)
    # The id's own term makes the sum at least 1; a distance beyond float64 leaves the smallest positive number.
    with np.errstate(over="ignore"):
        return max(1.0 / float(np.exp(distances).sum()), _NO_CONFIDENCE)


def _largest(row: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """The k largest values, in any order; partitions only the few values that can be among them."""
    n_blocks = row.size // _BLOCK
    pool = row
    if k < n_blocks:
        maxima = row[: n_blocks * _BLOCK].reshape(n_blocks, _BLOCK).max(axis=1)
        pool = row[row >= np.partition(maxima, n_blocks - k)[n_blocks - k]]
    return pool if k >= pool.size else np.partition(pool, pool.size - k)[pool.size - k :]
