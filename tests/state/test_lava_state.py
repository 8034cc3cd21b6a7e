"""Memories forget drafted positions exactly, events included: whatever was tried and taken back, the next logits have
the bits of a sequence that only ever had what was kept. And they take no memory for its length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.state.sequences import VOCAB, Sequence, opened
from tests.vortex_checkpoints import VARIANTS, write_vortex

import vortex_engine as vx
from vortex_engine.models.effort import Effort
from vortex_engine.models.protocol import LanguageModel
from vortex_engine.ops import make_context
from vortex_engine.state import LavaBank, LavaState, SequenceState, find_part

W = LavaState.WINDOW


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every variant, packed with codec exact; read-only."""
    folder = tmp_path_factory.mktemp("vortex")
    for name, changes in VARIANTS.items():
        write_vortex(folder / name, **changes)
        vx.pack(folder / name, folder / f"{name}.c3")
    return {name: folder / f"{name}.c3" for name in VARIANTS}


@pytest.mark.parametrize("variant", ["plain", "surprise"])
@pytest.mark.parametrize("n_kept", [0, 1, 6, 7, 8, 64, 65])
def test_a_block_across_an_event_is_kept_up_to_any_row(packed: dict[str, Path], variant: str, n_kept: int) -> None:
    with opened(packed[variant]) as model:
        sequence = Sequence(model, 1)
        sequence.rows(3 * W - 7)
        for _ in range(2):
            mark, at = sequence.state.snapshot(), len(sequence.ids)
            sequence.rows(W + 1)
            sequence.commit(mark, at, n_kept)
            sequence.check()
            sequence.rows(1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_drafts_blocks_and_pieces_of_a_prompt(packed: dict[str, Path], variant: str, seed: int) -> None:
    choose = np.random.default_rng(seed)
    efforts = (Effort("prefix"), Effort(n_layers=1), Effort("prefix", 2))
    with opened(packed[variant]) as model:
        sequence = Sequence(model, seed)
        sequence.rows(2 * W - 3)
        for _ in range(10):
            kind = choose.integers(0, 5)
            mark, at = (sequence.state.snapshot(), len(sequence.ids)) if kind else (None, 0)
            if kind == 0:
                sequence.rows(int(choose.integers(1, 2 * W)))
            elif kind == 1:  # drafts, one row a sweep, of one effort or of several
                for _ in range(choose.integers(1, 12)):
                    sequence.rows(1, efforts[choose.integers(0, 3)])
                sequence.rollback(mark, at)
            elif kind <= 3:
                n = int(choose.integers(1, W + 2))
                sequence.rows(n)
                sequence.commit(mark, at, int(choose.integers(0, n + 1)))
            else:  # a block within a block
                sequence.rows(int(choose.integers(1, W)))
                inner, inner_at = sequence.state.snapshot(), len(sequence.ids)
                sequence.rows(int(choose.integers(1, W)))
                if choose.integers(0, 2):
                    sequence.rollback(inner, inner_at)
                else:
                    sequence.commit(inner, inner_at, 1)
                sequence.rows(1)
                n = len(sequence.ids) - at
                sequence.commit(mark, at, int(choose.integers(0, n + 1)))
            if choose.integers(0, 3) == 0:
                sequence.check()
        sequence.check()


@pytest.mark.parametrize("variant", ["plain", "surprise", "gated"])
@pytest.mark.parametrize("in_block", [True, False])
def test_an_interrupted_pass_leaves_the_sequence_as_it_was(
    packed: dict[str, Path], variant: str, in_block: bool
) -> None:
    countdown = [10**9]

    def interrupt() -> None:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise KeyboardInterrupt

    with opened(packed[variant], interrupt, "attend") as model:
        sequence = Sequence(model, 3)
        sequence.rows(3 * W - 4)
        inner = sequence.state.snapshot() if in_block else None
        sequence.rows(2)
        # In the third layer: the second's memory has been through events that never were.
        countdown[0] = 2
        with pytest.raises(KeyboardInterrupt):
            sequence.rows(2 * W)
        countdown[0] = 10**9
        if inner is not None:
            sequence.rollback(inner, 3 * W - 4)
        sequence.check()
        sequence.rows(2 * W)
        sequence.check()


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_is_constant_once_the_banks_are_full(packed: dict[str, Path], variant: str) -> None:
    def step(model: LanguageModel, state: SequenceState, n: int) -> None:
        draw = np.random.default_rng(1)
        for _ in range(n):
            model.forward(draw.integers(0, VOCAB, W), state, "none")
            mark = state.snapshot()
            model.forward(draw.integers(0, VOCAB, W), state, "none")
            state.commit(mark, 33)

    with opened(packed[variant]) as model:
        state = model.new_state(10**9)
        step(model, state, 16)
        before = state.kv_bytes
        step(model, state, 16)
        assert state.kv_bytes == before


def test_what_is_written(packed: dict[str, Path]) -> None:
    with opened(packed["cycles"]) as model:
        state = model.new_state(1000)
        lava = find_part(state, LavaState)
        assert lava is not None
        assert lava.written(64, 80)[0].tolist() == [65, 70, 75]
    with opened(packed["surprise"]) as model:
        state = model.new_state(1000)
        lava = find_part(state, LavaState)
        assert lava is not None
        ids = np.random.default_rng(2).integers(0, VOCAB, 2 * W)
        logits = model.forward(ids, state, "all").astype(np.float64)
        nats = np.log(np.exp(logits[:-1]).sum(axis=1)) - logits[np.arange(len(ids) - 1), ids[1:]]
        positions, importance = lava.written(0, 2 * W)
        surprising = np.flatnonzero(nats > 6.0) + 1
        assert 10 < len(surprising) < 2 * W - 10
        assert set(positions) == {*surprising.tolist(), *range(0, 2 * W, 16)}
        np.testing.assert_allclose(importance, [0.0 if p == 0 else nats[p - 1] for p in positions], rtol=1e-5)


def test_positions_go_on_from_those_that_are_remembered(packed: dict[str, Path]) -> None:
    ids = np.arange(W + 5)
    with opened(packed["plain"]) as model:
        first = model.new_state(4096)
        model.forward(ids, first, "none")
        lava = find_part(first, LavaState)
        assert lava is not None
        banks, offset = lava.finish()
        assert offset == len(ids)
        parts = [bank.parts() for bank in banks]
        logits: list[np.ndarray] = []
        for offset in (0, len(ids), 10**6):
            state = model.new_state(4096)
            memory = find_part(state, LavaState)
            assert memory is not None
            memory.recall([LavaBank.from_parts(make_context(threads=1), part, "") for part in parts], offset)
            logits.append(model.forward(ids[:20], state, "all"))
        # Scores grow with the logarithm of the position, and nothing else has changed.
        assert not np.array_equal(logits[0], logits[1]) and not np.array_equal(logits[1], logits[2])
