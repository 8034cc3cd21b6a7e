"""The state at the end of a sequence follows commits and rollbacks."""

from __future__ import annotations

import numpy as np

from vortex_engine.state import HiddenRows, KVState, SequenceState, hidden_rows


def rows(*values: float) -> np.ndarray:
    return np.asarray([[value, -value] for value in values], np.float32)


def test_a_block_keeps_the_row_of_its_last_verified_position() -> None:
    kept = HiddenRows(2)
    assert kept.last.shape == (0, 2)
    kept.append(5, rows(5))
    mark = kept.snapshot()
    for n_kept in (3, 1, 2, 0):
        kept.append(3, rows(6, 7, 8))
        kept.commit(mark, n_kept)
        assert np.array_equal(kept.last, rows(5 + n_kept))
        kept.rollback(mark)
        assert np.array_equal(kept.last, rows(5))


def test_positions_before_the_kept_rows_are_unknown() -> None:
    kept = HiddenRows(2)
    mark = kept.snapshot()
    kept.append(5, rows(5))
    kept.commit(mark, 4)
    assert kept.last.shape == (0, 2)
    kept.append(2, rows(5, 6))
    kept.append(1, None)
    assert kept.last.shape == (0, 2)


def test_a_draft_inside_a_block_leaves_no_trace() -> None:
    kept = HiddenRows(2)
    kept.append(4, rows(4))
    outer = kept.snapshot()
    kept.append(1, None)
    inner = kept.snapshot()
    kept.append(1, None)
    kept.rollback(inner)
    kept.rollback(outer)
    assert np.array_equal(kept.last, rows(4))
    kept.append(3, rows(5, 6, 7))
    kept.commit(outer, 2)
    assert np.array_equal(kept.last, rows(6))
    # The block's other rows are not held.
    assert kept.last.base is None or kept.last.base.shape == (1, 2)


def test_a_sibling_is_adopted_after_the_chain_is_cut() -> None:
    kept = HiddenRows(2)
    kept.append(4, rows(4))
    mark = kept.snapshot()
    # A chain at slots 4 to 6, siblings at 7 and 8.
    for n_kept, slot in ((1, 7), (2, 8)):
        kept.append(3, rows(5, 6, 7, 70, 80), n_siblings=2)
        kept.commit(mark, n_kept)
        assert np.array_equal(kept.last, rows(4 + n_kept))
        kept.adopt(slot)
        assert np.array_equal(kept.last, rows(10 * slot))
        after = kept.snapshot()
        kept.append(2, rows(8, 9))
        kept.commit(after, 1)
        assert np.array_equal(kept.last, rows(8))
        kept.rollback(mark)


def test_found_among_the_parts_of_a_sequence() -> None:
    kept = HiddenRows(2)
    assert hidden_rows(SequenceState(KVState(1, 1, 2, 4), [kept])) is kept
    assert hidden_rows(SequenceState(KVState(1, 1, 2, 4))) is None
