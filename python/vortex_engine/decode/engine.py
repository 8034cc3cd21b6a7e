"""The block loop: chunked prefill, then blocks of drafts, each verified by one sweep. It knows ids, no text.

Blockwise adaptive decoding: a sweep has the last token and its drafts as rows; the logits of row i judge draft i + 1.
A draft is accepted while it is the token that plain decoding would have chosen, so what is generated never depends on
what was drafted. Without drafters a block is one row: plain decoding is the same loop. A draft may have siblings, other
ids in its place; where the draft is wrong and a sibling right, the sibling's row gives one token more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vortex_engine.decode.block import Block
from vortex_engine.decode.drafters.protocol import Drafter
from vortex_engine.decode.planner import Planner
from vortex_engine.decode.sampler import Sampler
from vortex_engine.models.effort import FULL, Effort
from vortex_engine.state import SequenceState

__all__ = ["LogitsFn", "Timing", "VerifiedBlock", "generate_blocks", "prefill", "prefill_spans"]


class LogitsFn(Protocol):
    """One sweep of a model, as `LanguageModel.forward`."""

    def __call__(
        self,
        token_ids: NDArray[np.int64],
        state: SequenceState,
        logits: Literal["last", "all", "none"],
        effort: Effort = FULL,
        depths: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32]: ...


@dataclass
class Timing:
    """When a generation's phases ended, in seconds of a monotonic clock; and sweeps that chose tokens."""

    start_s: float = field(default_factory=time.perf_counter)
    prefill_end_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    n_token_sweeps: int = 0

    def token_sweep(self) -> None:
        """A sweep has just chosen tokens."""
        self.n_token_sweeps += 1
        self.last_token_s = time.perf_counter()
        self.first_token_s = self.first_token_s or self.last_token_s


@dataclass(frozen=True)
class VerifiedBlock:
    """Tokens that one sweep chose, and the logits row that chose each: [n, vocab] float32."""

    token_ids: tuple[int, ...]
    logits: NDArray[np.float32]


def prefill_spans(n_tokens: int, chunk: int) -> list[tuple[int, int]]:
    """(start, end) of the chunks of a prompt."""
    return [(start, min(start + chunk, n_tokens)) for start in range(0, n_tokens, chunk)]


def prefill(
    forward: LogitsFn, prompt_ids: Sequence[int], state: SequenceState, chunk: int, timing: Timing
) -> NDArray[np.float32]:
    """Run the prompt through, each chunk one sweep; logits [1, vocab] of its last token."""
    ids = np.asarray(prompt_ids, dtype=np.int64)
    *head, last = prefill_spans(len(ids), chunk)
    for start, end in head:
        forward(ids[start:end], state, "none")
    logits = forward(ids[last[0] : last[1]], state, "last")
    timing.prefill_end_s = time.perf_counter()
    return logits


def generate_blocks(
    forward: LogitsFn,
    adopt: Callable[[SequenceState, int], None],
    prompt_ids: Sequence[int],
    logits: NDArray[np.float32],
    state: SequenceState,
    sampler: Sampler,
    drafters: Sequence[Drafter],
    planner: Planner,
    timing: Timing,
) -> Iterator[VerifiedBlock]:
    """Blocks of ids that follow the prompt, until the state is full; a consumer that has enough stops asking.

    Args:
        adopt: as `LanguageModel.adopt`.
        logits: what `prefill` returned; `state` holds the prompt.

    A block is computed when it is asked for. At every yield, and after an exception, the state holds verified positions
    alone.
    """
    _, last = sampler.verify((), logits)
    sampler.push((last,))
    timing.token_sweep()
    for drafter in drafters:
        drafter.accept([*prompt_ids, last])
    yield VerifiedBlock((last,), logits)
    while state.length < state.capacity:
        block = planner.propose(state.capacity - state.length - 2)  # the last token needs no position
        tree = _Tree(last, block, state.length)
        mark = state.snapshot()
        started = time.perf_counter()
        try:
            logits = forward(tree.token_ids, state, "all", FULL, tree.depths)
            n_accepted, last = sampler.verify(block.token_ids, logits[: tree.n_chain])
        except BaseException:
            state.rollback(mark)
            raise
        state.commit(mark, 1 + n_accepted)
        token_ids = (*block.token_ids[:n_accepted], last)
        sampler.push(token_ids)
        chosen_by = logits[: n_accepted + 1]
        row, sibling_id = tree.sibling_row(n_accepted + 1, last), None
        if row is not None:
            sibling_id = last
            adopt(state, tree.start + row)
            _, last = sampler.verify((), logits[row : row + 1])
            sampler.push((last,))
            token_ids, chosen_by = (*token_ids, last), np.concatenate((chosen_by, logits[row : row + 1]))
        planner.observe(block, n_accepted, time.perf_counter() - started, sibling_id=sibling_id)
        for drafter in drafters:
            drafter.accept(token_ids)
        timing.token_sweep()
        yield VerifiedBlock(token_ids, chosen_by)


class _Tree:
    """The rows of a block's sweep: the last token, its drafts, and their siblings."""

    def __init__(self, last: int, block: Block, start: int) -> None:
        self.start = start
        self.n_chain = 1 + len(block.token_ids)
        ids = [sibling.token_id for sibling in block.siblings]
        self.token_ids = np.array((last, *block.token_ids, *ids), np.int64)
        self.depths = np.array([sibling.depth for sibling in block.siblings], np.int64) if ids else None
        self._rows = {(sibling.depth, sibling.token_id): self.n_chain + i for i, sibling in enumerate(block.siblings)}

    def sibling_row(self, depth: int, token_id: int) -> int | None:
        """The row of the sibling that is this token in this place."""
        return self._rows.get((depth, token_id))
