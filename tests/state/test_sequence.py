"""A sequence's state is one transaction: every part keeps the first positions since a mark, or none."""

from __future__ import annotations

import numpy as np
import pytest

from vortex_engine.state import KVState, SequenceState


class Ledger:
    """A part that is a list of positions."""

    def __init__(self) -> None:
        self.items: list[int] = []

    @property
    def n_bytes(self) -> int:
        return 8 * len(self.items)

    def snapshot(self) -> int:
        return len(self.items)

    def commit(self, mark: int, n_positions: int) -> None:
        del self.items[mark + n_positions :]

    def rollback(self, mark: int) -> None:
        self.commit(mark, 0)


def sequence(n_positions: int) -> tuple[SequenceState, Ledger]:
    ledger = Ledger()
    state = SequenceState(KVState(n_layers=2, n_kv_heads=1, head_dim=16, capacity=32), [ledger])
    append(state, ledger, n_positions)
    return state, ledger


def append(state: SequenceState, ledger: Ledger, n_positions: int) -> None:
    ledger.items.extend(range(state.length, state.length + n_positions))
    state.kv.length += n_positions


def test_commit_keeps_the_first_positions_in_every_part() -> None:
    state, ledger = sequence(5)
    mark = state.snapshot()
    append(state, ledger, 4)
    state.commit(mark, 3)
    assert state.length == 8
    assert ledger.items == list(range(8))


def test_rollback_and_nested_marks() -> None:
    state, ledger = sequence(5)
    outer = state.snapshot()
    append(state, ledger, 2)
    inner = state.snapshot()
    append(state, ledger, 3)
    state.rollback(inner)
    assert state.length == 7
    append(state, ledger, 1)
    state.rollback(outer)
    assert state.length == 5
    assert ledger.items == list(range(5))


def test_rollback_copies_nothing() -> None:
    state, _ = sequence(5)
    keys = state.kv.layers[0][0]
    keys[:, 5:7] = 3.0
    mark = state.snapshot()
    state.kv.length = 7
    state.rollback(mark)
    assert state.kv.layers[0][0] is keys
    assert np.all(keys[:, 5:7] == 3.0)


@pytest.mark.parametrize("n_positions", [-1, 3])
def test_more_or_less_than_was_written_cannot_be_kept(n_positions: int) -> None:
    state, ledger = sequence(5)
    mark = state.snapshot()
    append(state, ledger, 2)
    with pytest.raises(ValueError, match="between 0 and 2"):
        state.commit(mark, n_positions)
