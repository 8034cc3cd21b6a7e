"""Recurrent layers forget drafted positions exactly: whatever was tried and taken back, the next logits have the bits
of a sequence that only ever had what was kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.state.sequences import Sequence, opened

from vortex_engine.models.effort import Effort
from vortex_engine.models.protocol import LanguageModel
from vortex_engine.state import SequenceState, recurrent_layers

FAMILIES = ("mamba", "mamba2")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_kept", range(6))
def test_a_block_is_kept_up_to_any_row(tiny_mamba_dirs: dict[str, Path], family: str, n_kept: int) -> None:
    with opened(tiny_mamba_dirs[family]) as model:
        sequence = Sequence(model, 1)
        for n_prompt in (1, 2, 40):  # shorter and longer than the convolution's window
            sequence.rows(n_prompt)
            mark, at = sequence.state.snapshot(), len(sequence.ids)
            sequence.rows(5)
            sequence.commit(mark, at, n_kept)
            sequence.check()
            sequence.rows(1)
            sequence.check()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_drafts_blocks_and_pieces_of_a_prompt(
    tiny_mamba_dirs: dict[str, Path], family: str, seed: int
) -> None:
    choose = np.random.default_rng(seed)
    efforts = (Effort("prefix"), Effort(n_layers=1), Effort("prefix", 2))
    with opened(tiny_mamba_dirs[family]) as model:
        sequence = Sequence(model, seed)
        for _ in range(12):
            kind = choose.integers(0, 5)
            mark, at = (sequence.state.snapshot(), len(sequence.ids)) if kind else (None, 0)
            if kind == 0:
                sequence.rows(int(choose.integers(1, 60)))
            elif kind <= 2:  # drafts, one row a sweep, of one effort or of several
                for _ in range(choose.integers(1, 5)):
                    sequence.rows(1, efforts[choose.integers(0, 3)])
                sequence.rollback(mark, at)
            elif kind == 3:
                n = int(choose.integers(1, 40))
                sequence.rows(n)
                sequence.commit(mark, at, int(choose.integers(0, n + 1)))
            else:  # a block within a block
                sequence.rows(int(choose.integers(1, 4)))
                inner, inner_at = sequence.state.snapshot(), len(sequence.ids)
                sequence.rows(int(choose.integers(1, 4)))
                if choose.integers(0, 2):
                    sequence.rollback(inner, inner_at)
                else:
                    sequence.commit(inner, inner_at, 1)
                sequence.rows(1)
                n = len(sequence.ids) - at
                sequence.commit(mark, at, int(choose.integers(0, n + 1)))
            if choose.integers(0, 2):
                sequence.check()
        sequence.check()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("in_block", [True, False])
def test_an_interrupted_pass_leaves_the_sequence_as_it_was(
    tiny_mamba_dirs: dict[str, Path], family: str, in_block: bool
) -> None:
    countdown = [10**9]

    def interrupt() -> None:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise KeyboardInterrupt

    with opened(tiny_mamba_dirs[family], interrupt) as model:
        for n_scans in (1, 2, 3, 4):  # of the three layers, and of a replay
            sequence = Sequence(model, n_scans)
            sequence.rows(9)
            mark = sequence.state.snapshot()
            sequence.rows(4)
            sequence.commit(mark, 9, 2)
            inner = sequence.state.snapshot() if in_block else None
            countdown[0] = n_scans
            with pytest.raises(KeyboardInterrupt):
                sequence.rows(3)
            countdown[0] = 10**9
            if inner is not None:
                sequence.state.rollback(inner)
            sequence.check()
            again, at = sequence.state.snapshot(), len(sequence.ids)
            sequence.rows(4)
            sequence.commit(again, at, 3)
            sequence.check()
            sequence.rows(2)
            sequence.check()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_kept", [0, 1, 2, 19, 21, 70, 90])
def test_a_block_may_be_longer_than_any_before(tiny_mamba_dirs: dict[str, Path], family: str, n_kept: int) -> None:
    with opened(tiny_mamba_dirs[family]) as model:
        sequence = Sequence(model, 2)
        sequence.rows(7)
        mark = sequence.state.snapshot()
        for n in (20, 30, 40):
            sequence.rows(n)
        sequence.commit(mark, 7, n_kept)
        sequence.check()


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_is_constant(tiny_mamba_dirs: dict[str, Path], family: str) -> None:
    def step(model: LanguageModel, state: SequenceState, n: int) -> None:
        for _ in range(n):
            mark = state.snapshot()
            model.forward(np.arange(5, dtype=np.int64), state, "none")
            state.commit(mark, 3)

    with opened(tiny_mamba_dirs[family]) as model:
        state = model.new_state(10**9)
        step(model, state, 5)
        before = state.kv_bytes
        step(model, state, 200)
        assert state.kv_bytes == before
        assert before >= sum(2 * 4 * layer.source.size for layer in recurrent_layers(state).layers)
