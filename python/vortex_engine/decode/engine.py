"""The token loop: chunked prefill, then one id a sweep. It knows ids and logits, no text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vortex_engine.decode.sampling import SamplingParams, sample_token
from vortex_engine.state import KVState

__all__ = ["LogitsFn", "Timing", "generate_ids", "prefill_spans"]


class LogitsFn(Protocol):
    """One sweep of a model, as `Decoder.forward`."""

    def __call__(
        self, token_ids: NDArray[np.int64], state: KVState, logits: Literal["last", "all", "none"]
    ) -> NDArray[np.float32]: ...


@dataclass
class Timing:
    """When a generation's phases ended, in seconds of a monotonic clock; tokens chosen, and sweeps that chose any."""

    start_s: float = field(default_factory=time.perf_counter)
    prefill_end_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    n_chosen_tokens: int = 0
    n_token_sweeps: int = 0


def prefill_spans(n_tokens: int, chunk: int) -> list[tuple[int, int]]:
    """(start, end) of the chunks of a prompt."""
    return [(start, min(start + chunk, n_tokens)) for start in range(0, n_tokens, chunk)]


def generate_ids(
    forward: LogitsFn,
    prompt_ids: Sequence[int],
    state: KVState,
    params: SamplingParams,
    prefill_chunk: int,
    timing: Timing,
) -> Iterator[int]:
    """Ids that follow the prompt, without end: the consumer stops asking. Each is sampled when it is asked for.

    The prompt goes through in chunks, each one sweep; only the last computes logits.
    """
    ids = np.asarray(prompt_ids, dtype=np.int64)
    *head, last = prefill_spans(len(ids), prefill_chunk)
    for start, end in head:
        forward(ids[start:end], state, "none")
    logits = forward(ids[last[0] : last[1]], state, "last")
    timing.prefill_end_s = time.perf_counter()
    seen = np.zeros(logits.shape[1], np.bool_)
    seen[ids] = True
    step = np.empty(1, np.int64)
    while True:
        # The new token stands right after the positions in the state.
        token_id = sample_token(logits[0], params, seen, state.length)
        timing.n_token_sweeps += 1
        timing.n_chosen_tokens += 1
        timing.last_token_s = time.perf_counter()
        timing.first_token_s = timing.first_token_s or timing.last_token_s
        seen[token_id] = True
        yield token_id
        step[0] = token_id
        logits = forward(step, state, "last")
