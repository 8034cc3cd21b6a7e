"""The most that copying can give: at every step the earlier place whose continuation stays right for longest is copied.

It needs the future, so no drafter that copies one place a step accepts more.
"""

from __future__ import annotations

import numpy as np

from benchmarks.bad.ngram_traces import Trace

__all__ = ["best_copy"]


def best_copy(trace: Trace, limit: int) -> tuple[int, int]:
    """Steps and accepted ids of a trace, at most `limit` ids a step."""
    ids = np.array([*trace.prompt_ids, *trace.output_ids])
    place, n_steps, n_accepted = len(trace.prompt_ids), 0, 0
    while place < len(ids):
        # Copies may run into what they write.
        starts, length = np.arange(place), 0
        while length < limit and place + length < len(ids):
            starts = starts[ids[starts + length] == ids[place + length]]
            if not len(starts):
                break
            length += 1
        n_steps += 1
        n_accepted += length
        place += length + 1
    return n_steps, n_accepted
