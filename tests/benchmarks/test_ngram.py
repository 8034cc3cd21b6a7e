"""The benchmark of n-gram drafting: what a replay counts, and that its edits are the same every time."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.bad.ngram import replay
from benchmarks.bad.ngram_edits import edit_file
from benchmarks.bad.ngram_oracle import best_copy
from benchmarks.bad.ngram_traces import Trace

_SOURCE = "\n\n".join(
    f'def total_of_{name}(values, start={i}):\n    """Sum of the {name} values, from start."""\n    result = start\n'
    f"    for value in values:\n        result = add(result, value)\n    return result"
    for i, name in enumerate(("first", "second", "third"))
)


class _Fixed:
    """Proposes the same ids at every step."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.pushed = ids, list[int]()

    def push(self, ids: list[int]) -> None:
        """Remembers them."""
        self.pushed += ids

    def propose(self) -> Sequence[int]:
        """Always the same."""
        return self.ids


def test_a_replay_counts_the_right_prefix_and_the_token_of_the_model() -> None:
    fixed = _Fixed([1, 2, 3])
    tally = replay(fixed, Trace("edit", "t", [9, 9], [1, 2, 7, 5, 1, 2, 3, 8, 1]))
    # Steps: 1 2 | 7, then | 5, then 1 2 3 | 8, then 1 at the end.
    assert (tally.n_steps, tally.n_accepted, tally.n_proposed) == (4, 6, 12)
    assert fixed.pushed == [9, 9, 1, 2, 7, 5, 1, 2, 3, 8, 1]
    assert tally.accepted_per_step == 1.5


def test_edits_change_the_file_and_are_repeatable() -> None:
    seen = {edit_file(_SOURCE, random.Random(seed), 4) for seed in range(20)}
    assert len(seen) > 15
    assert all(sum(line in text for line in _SOURCE.split("\n")) > 3 for text in seen)
    assert edit_file(_SOURCE, random.Random(3), 4) == edit_file(_SOURCE, random.Random(3), 4)


def test_the_best_copy_takes_the_longest_right_continuation_at_every_step() -> None:
    trace = Trace("edit", "t", [1, 2, 8, 1, 2, 3, 4], [1, 2, 3, 9, 3, 4, 1])
    # 1 2 3 | 9, then 3 4 1 from the middle of the prompt and the output's beginning.
    assert best_copy(trace, 8) == (2, 6)
    assert best_copy(trace, 2) == (3, 4)
    # A copy may run into what it writes.
    assert best_copy(Trace("edit", "t", [5, 6], [5, 6, 5, 6, 5, 6]), 8) == (1, 6)
